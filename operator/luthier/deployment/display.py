"""What `kubectl get` shows of a ModelDeployment, and a test's numbers in words: pure.

Printer columns are paths into status and can compute nothing, so status has a small part that is made for them.
"""

from __future__ import annotations

import math

from luthier.api.modeldeployment import DisplayStatus, ModelDeploymentStatus, RevisionStatus, Weights
from luthier.deployment.gates import Hypothesis

NONE = "-"
_Z = 1.959964
"""Of a two-sided 95 % interval."""


def show(status: ModelDeploymentStatus, weights: Weights | None) -> DisplayStatus:
    """Return the columns: `r7 r8 3/6 10%`, or `r7 - - 0%` while nothing is tried.

    Args:
        status: As it is to be written.
        weights: As read from the route; None: there is none yet.
    """
    rollout = status.rollout if status.candidate is not None else None
    return DisplayStatus(
        stable=_short(status.stable),
        candidate=_short(status.candidate),
        step=f"{rollout.step}/{len(rollout.steps) + 1 + (rollout.watch is not None)}" if rollout is not None else NONE,
        weight=f"{weights.candidate}%" if weights is not None else NONE,
    )


def _short(revision: RevisionStatus | None) -> str:
    return f"r{revision.number}" if revision is not None else NONE


def share(bad: int, started: int) -> str:
    """Return a rate as a column shows it: `21%`, `1.0%`, `-` of nothing."""
    if not started:
        return NONE
    percent = 100 * bad / started
    return f"{percent:.0f}%" if percent >= 10 or percent == 0 else f"{percent:.1f}%"


def interval(bad: int, started: int) -> str:
    """Return Wilson's 95 % interval of a rate in percent: `14 to 36 %`; empty of nothing.

    For reading at one time. It is not valid at every look: what decides is the evidence.
    """
    if not started:
        return ""
    low, high = wilson(bad, started)
    return f"{_digits(low)} to {_digits(high)} %"


def wilson(bad: int, started: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a rate."""
    rate, z2 = bad / started, _Z * _Z
    centre = (rate + z2 / (2 * started)) / (1 + z2 / started)
    half = _Z * math.sqrt(rate * (1 - rate) / started + z2 / (4 * started * started)) / (1 + z2 / started)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[float, float]:
    """Return the ends of Newcombe's 95 % interval of the difference of two rates, each (bad, started)."""
    (p, q), (low_p, high_p), (low_q, high_q) = (
        (ours[0] / ours[1], theirs[0] / theirs[1]),
        wilson(*ours),
        wilson(*theirs),
    )
    return p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)


def _digits(rate: float) -> str:
    percent = 100 * rate
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"


def bound(hypothesis: Hypothesis) -> str:
    """Return what a metric may be at most, in words: `1.1 times the stable's, or 1 %`."""
    parts = []
    if hypothesis.ratio is not None:
        parts.append("as the stable's" if hypothesis.ratio == 1 else f"{hypothesis.ratio:.4g} times the stable's")
    if hypothesis.floor is not None:
        parts.append(f"{100 * hypothesis.floor:.4g} %")
    return ", or ".join(parts)
