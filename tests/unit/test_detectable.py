"""The smallest effect that a Pass would have caught: held to what a simulation of the test itself finds."""

from __future__ import annotations

import random

import pytest

from luthier.deployment import gates
from luthier.deployment.detectable import detectable_rate
from luthier.deployment.gates import Counts, Evidence, Hypothesis

ERRORS = Hypothesis(ratio=1.1, floor=0.01)


def rate_of(n_c: int, n_s: int, *, stable: float, hypothesis=ERRORS, threshold=200.0, phi=1.0) -> float | None:
    counts = Counts(candidate_started=n_c, stable_started=n_s, stable_bad=round(stable * n_s))
    return detectable_rate(counts, hypothesis, threshold=threshold, burstiness=phi, restart=1)


def share_caught(rate: float, *, n_c: int, n_s: int, stable: float, hypothesis: Hypothesis, runs: int) -> float:
    """Return in how many of the runs the real test fails such a candidate within so many requests."""
    caught, rng = 0, random.Random(1)
    looks = 40
    bursts = gates.Burstiness(buckets=((0, 100_000, 1000, 10_000 * 100, 1000 * 100, 1000),))
    for _ in range(runs):
        evidence = gates.restart(Evidence(bursts=bursts), 1)
        for i in range(looks):
            n = (n_c // looks, n_s // looks)
            bad = [sum(rng.random() < p for _ in range(k)) for p, k in zip((rate, stable), n, strict=True)]
            counts = Counts(candidate_bad=bad[0], candidate_started=n[0], stable_bad=bad[1], stable_started=n[1])
            evidence = gates.look(evidence, hypothesis, counts, at=float(i))
            if gates.has_failed(evidence, hypothesis, threshold=200.0):
                caught += 1
                break
    return caught / runs


@pytest.mark.slow
@pytest.mark.parametrize(("n_c", "n_s", "stable"), [(400, 3600, 0.01), (400, 400, 0.05), (2000, 2000, 0.01)])
def test_nine_of_ten_runs_catch_it(n_c, n_s, stable):
    rate = rate_of(n_c, n_s, stable=stable)
    assert rate is not None
    assert 0.8 <= share_caught(rate, n_c=n_c, n_s=n_s, stable=stable, hypothesis=ERRORS, runs=100) <= 0.99
    half = (rate + stable) / 2
    assert share_caught(half, n_c=n_c, n_s=n_s, stable=stable, hypothesis=ERRORS, runs=60) < 0.6


def test_more_requests_show_less_and_bursts_hide_more():
    rates = [rate_of(n, 9 * n, stable=0.01) for n in (50, 100, 400, 4000)]
    assert None not in rates
    assert rates == sorted(rates, reverse=True)
    assert rate_of(400, 3600, stable=0.01, phi=3.0) > rates[2]
    assert rates[3] < 0.025


def test_too_few_requests_show_nothing():
    assert rate_of(0, 1000, stable=0.01) is None
    assert rate_of(3, 1000, stable=0.01) is None
    assert rate_of(100, 0, stable=0.0) is None
    assert rate_of(100, 0, stable=0.0, hypothesis=Hypothesis(ratio=None, floor=0.01)) is not None
