"""How small a rise would this many requests have shown? What a Pass is worth: pure.

The evidence of a test that has one stratum is a sum, so its mean and spread under a given candidate's rate are known.
The answer is the smallest rate for which the mean less 1.28 times the spread still crosses, for the best of the
alternatives and with the weight that its restart has: nine of ten runs would have failed. An approximation; a
simulation in tests/unit holds it to 80 to 99 in a hundred.
"""

from __future__ import annotations

import math

from luthier.deployment.gates import FLOOR_GROWTH, GROWTH, MAX_BAD_RATE, Counts, Hypothesis

NINE_IN_TEN = 1.2816
"""Standard deviations below the mean that one run in ten is."""
EXPECTED_BAD_TO_FAIL = 5.32
"""So many bad requests are expected where at least three come in nine of ten runs."""
_HALVINGS = 24


def detectable_rate(
    n: Counts, hypothesis: Hypothesis, *, threshold: float, burstiness: float, restart: int
) -> float | None:
    """Return the smallest bad rate of the candidate that nine of ten runs would have caught, or None: not even 100 %.

    Args:
        n: Requests of both sides; of the candidate's, only how many.
        hypothesis: What must be refuted.
        threshold: Evidence that a fail needs.
        burstiness: How much more bad requests vary than independent ones.
        restart: The number of the restart that came with the weight; the first has most of the evidence's weight.
    """
    if not n.candidate_started:
        return None
    needed = math.log(threshold) + math.log(restart * (restart + 1)) + math.log(len(GROWTH))
    stable = (n.stable_bad + 0.5) / (n.stable_started + 1)

    def is_caught(rate: float) -> bool:
        if rate * n.candidate_started < EXPECTED_BAD_TO_FAIL:
            return False
        relative = hypothesis.ratio is None or _relative(n, hypothesis.ratio, rate, stable, burstiness) >= needed
        floor = hypothesis.floor is None or _floor(n, hypothesis.floor, rate, burstiness) >= needed
        return relative and floor

    low, high = 0.0, 1.0
    if not is_caught(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_caught(middle) else (middle, high)
    return high


def _relative(n: Counts, ratio: float, rate: float, stable: float, phi: float) -> float:
    if not n.stable_started:
        return -math.inf
    n_c, n_s = n.candidate_started, n.stable_started
    best = -math.inf
    for growth in GROWTH:
        shift = math.log((n_c * ratio + n_s) / (n_c * ratio * growth + n_s))
        each = math.log(growth) + shift
        mean = n_c * rate * each + n_s * stable * shift
        variance = n_c * rate * (1 - rate) * each**2 + n_s * stable * (1 - stable) * shift**2
        best = max(best, _nine_in_ten(mean, variance, phi))
    return best


def _floor(n: Counts, floor: float, rate: float, phi: float) -> float:
    best = -math.inf
    for growth in FLOOR_GROWTH:
        q = min(MAX_BAD_RATE, floor * growth)
        if q <= floor:
            continue
        bad, good = math.log(q / floor), math.log((1 - q) / (1 - floor))
        mean = n.candidate_started * (rate * bad + (1 - rate) * good)
        variance = n.candidate_started * rate * (1 - rate) * (bad - good) ** 2
        best = max(best, _nine_in_ten(mean, variance, phi))
    return best


def _nine_in_ten(mean: float, variance: float, phi: float) -> float:
    # Evidence is divided by phi, and bursts make its spread the root of phi wider.
    return (mean - NINE_IN_TEN * math.sqrt(variance * phi)) / phi
