"""Do requests arrive as the route's weights say? A sequential multinomial test, valid at every look: pure.

A gateway that sends the candidate other requests than its share, or a pod that nobody counts, makes every comparison
of the two sides doubtful: the rollout is held, and nothing is taken back. For independent requests the chance that a
right split is ever called a wrong one is at most ALPHA for each weight (Lindon and Malek 2022, anytime-valid
inference for multinomial count data).
"""

from __future__ import annotations

import math

ALPHA = 0.001
PRIOR_REQUESTS = 100.0
"""How much the alternative is like the weights: a share some points away is found soonest."""


def log_evidence(candidate: float, stable: float, *, weight: int, lag_share: float = 0.0) -> float:
    """Return ln of the evidence against the weights, from the requests of both sides since they came into force.

    Args:
        candidate: Requests that the candidate has started.
        stable: Requests that the stable has started.
        weight: The candidate's share in percent, 1 to 99.
        lag_share: So much of either number may be missing or too much, as the two sides are not read at one time.
    """
    share = weight / 100
    candidate, stable = _nearest(candidate, stable, share, lag_share)
    ours, theirs = PRIOR_REQUESTS * share, PRIOR_REQUESTS * (1 - share)
    likelihood = _log_beta(ours + candidate, theirs + stable) - _log_beta(ours, theirs)
    return likelihood - candidate * math.log(share) - stable * math.log(1 - share)


def is_mismatch(candidate: float, stable: float, *, weight: int, lag_share: float) -> bool:
    """Say whether the requests are proven to arrive in another ratio."""
    if not 0 < weight < 100 or lag_share >= 1:
        return False
    return log_evidence(candidate, stable, weight=weight, lag_share=lag_share) >= -math.log(ALPHA)


def _nearest(candidate: float, stable: float, share: float, lag_share: float) -> tuple[float, float]:
    """Return the counts within the lag that fit the weights best: what is left is no matter of reading."""
    wanted = share / (1 - share) * stable
    if candidate > wanted:
        candidate, stable = candidate * (1 - lag_share), stable * (1 + lag_share)
        return max(candidate, share / (1 - share) * stable), stable
    candidate, stable = candidate * (1 + lag_share), stable * (1 - lag_share)
    return min(candidate, share / (1 - share) * stable), stable


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
