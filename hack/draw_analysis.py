"""Draws docs/analysis.svg: what the sequential test sees of three candidates. Seeded; the test is the operator's.

`python hack/draw_analysis.py` writes the file; tests/unit/test_analysis_picture.py fails when it is stale.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from luthier.deployment import gates
from luthier.deployment.gates import Counts, Evidence, Hypothesis

PATH = Path(__file__).resolve().parent.parent / "docs" / "analysis.svg"
SECONDS, BREACH_AT, RATE, SHARE, THRESHOLD = 300, 120, 10.0, 0.25, 200.0
ERRORS = Hypothesis(ratio=1.10, floor=0.01)
CANDIDATES = (
    ("1 % errors, like the stable", 0.01, "#2a7f3f"),
    ("6 % errors from 120 s on", 0.06, "#b8860b"),
    ("20 % errors from 120 s on", 0.20, "#b22222"),
)
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 380, 70, 30, 20, 50
LOWEST, HIGHEST = -3.0, 4.0
"""Powers of ten that are shown."""


def evidence_over_time(bad_rate: float, seed: int) -> list[float]:
    """Return log10 of the evidence after each second, until the candidate is taken back."""
    rng, evidence, found, restarts = random.Random(seed), Evidence(), [], 0
    for second in range(SECONDS):
        if second % int(gates.RESTART_SECONDS) == 0:
            restarts += 1
            evidence = gates.restart(evidence, restarts)
        rate = bad_rate if second >= BREACH_AT else 0.01
        n_c, n_s = _poisson(rng, RATE * SHARE), _poisson(rng, RATE * (1 - SHARE))
        counts = Counts(
            candidate_bad=sum(rng.random() < rate for _ in range(n_c)),
            candidate_started=n_c,
            stable_bad=sum(rng.random() < 0.01 for _ in range(n_s)),
            stable_started=n_s,
        )
        evidence = gates.look(evidence, ERRORS, counts, at=float(second))
        found.append(gates.log_evidence(evidence, ERRORS) / math.log(10))
        if gates.has_failed(evidence, ERRORS, threshold=THRESHOLD):
            break
    return found


def draw(seed: int = 3) -> str:
    """Return the picture as SVG."""
    font = 'font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(int(LOWEST), int(HIGHEST) + 1):
        y = _y(power)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for second in range(0, SECONDS + 1, 60):
        parts.append(f'<text x="{_x(second):.1f}" y="{HEIGHT - 30}" text-anchor="middle">{second} s</text>')
    y, x = _y(math.log10(THRESHOLD)), _x(BREACH_AT)
    parts += [
        f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="black" stroke-dasharray="6 4"/>',
        f'<text x="{LEFT + 6}" y="{y - 6:.1f}">taken back at {THRESHOLD:g}</text>',
        f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="2 3"/>',
        f'<text x="{x + 4:.1f}" y="{HEIGHT - BOTTOM - 6}" fill="#666">the breach; a restart</text>',
        f'<text x="{LEFT}" y="18">evidence against the candidate</text>',
    ]
    for i, (name, rate, colour) in enumerate(CANDIDATES):
        line = evidence_over_time(rate, seed)
        points = " ".join(f"{_x(s + 1):.1f},{_y(v):.1f}" for s, v in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) < SECONDS:
            parts.append(f'<circle cx="{_x(len(line)):.1f}" cy="{_y(line[-1]):.1f}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 8 + 225 * i}" y="{HEIGHT - 8}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(second: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * second / SECONDS


def _y(power: float) -> float:
    power = min(HIGHEST, max(LOWEST, power))
    return TOP + (HEIGHT - TOP - BOTTOM) * (HIGHEST - power) / (HIGHEST - LOWEST)


def _poisson(rng: random.Random, mean: float) -> int:
    limit, n, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        n, product = n + 1, product * rng.random()
    return n


if __name__ == "__main__":
    PATH.write_text(draw())
