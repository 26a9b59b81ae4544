"""Intervals: pure. All are two-sided at `level`; a value's ends are where its one-sided tests would just refuse.

- binary values: Clopper-Pearson, exact.
- paired binary differences: Tango's score interval with a continuity correction where many pairs differ;
  else an exact one, composed of Clopper-Pearson intervals for how many differ and for whom.
- values between 0 and 1: by betting, which holds for every distribution. A bootstrap does not: it has never seen the
  rare complete failure that is not in the sample (docs/evaluation.md has the measured error rates).

What a gate makes of an interval is `gates`' business. tests/unit/test_eval_stats.py counts false passes by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

EXACT_BELOW = 30
"""Under so many cases only exact methods are used (a rule of this project, not of statistics)."""
_TANGO_VARIANCE = 10.0
"""Tango's interval needs this variance of the number of pairs won minus lost; below it the normal law is off."""
_BETS = numpy.arange(1, 65) / 64
"""Shares of the capital that are bet on each case; each starts with a part of the money."""
_MONEY = numpy.where(_BETS == 1, 0.5 + 0.5 / 64, 0.5 / 64)
"""Half on betting everything, the best bet where values hardly differ; the rest evenly, for values that do."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval, and how that was found."""

    value: float
    low: float
    high: float
    method: str


def estimate_mean(values: Sequence[float], *, level: float) -> Estimate:
    """Estimate the mean of values between 0 and 1; there must be one at least."""
    if _is_binary(values):
        return estimate_rate(round(sum(values)), len(values), level=level)
    return _bounded_mean(values, level=level, low=0.0, high=1.0)


def estimate_rate(successes: int, n: int, *, level: float) -> Estimate:
    """Estimate a probability by Clopper and Pearson."""
    low, high = clopper_pearson(successes, n, tail=(1 - level) / 2)
    return Estimate(value=successes / n, low=low, high=high, method="Clopper-Pearson")


def estimate_difference(ours: Sequence[float], theirs: Sequence[float], *, level: float) -> Estimate:
    """Estimate the mean of `ours - theirs`, values between 0 and 1 on the same cases in the same order."""
    if len(ours) != len(theirs):
        raise ValueError("paired values need the same cases")
    if _is_binary(ours) and _is_binary(theirs):
        won = sum(a > b for a, b in zip(ours, theirs, strict=True))
        lost = sum(a < b for a, b in zip(ours, theirs, strict=True))
        return estimate_paired(won, lost, len(ours), level=level)
    return _bounded_mean([a - b for a, b in zip(ours, theirs, strict=True)], level=level, low=-1.0, high=1.0)


def estimate_paired(won: int, lost: int, n: int, *, level: float) -> Estimate:
    """Estimate a paired difference of rates from the pairs that only we, and only they, got right."""
    value = (won - lost) / n
    variance = won + lost - (won - lost) ** 2 / n
    if n >= EXACT_BELOW and variance >= _TANGO_VARIANCE:
        low, high = tango(won, lost, n, level=level)
        return Estimate(value=value, low=low, high=high, method="Tango")
    low, high = exact_paired(won, lost, n, level=level)
    return Estimate(value=value, low=low, high=high, method="exact paired")


def clopper_pearson(successes: int, n: int, *, tail: float) -> tuple[float, float]:
    """Return the exact interval whose two ends each err with probability `tail` at most."""
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(special.betainccinv(successes + 1, n - successes, tail))
    return low, high


def exact_paired(won: int, lost: int, n: int, *, level: float) -> tuple[float, float]:
    """Return an interval for a paired difference that errs at most as often as it says, for every n.

    difference = (share of pairs that differ) * (2 * chance that we win such a pair - 1). Each factor has its
    Clopper-Pearson interval at half the error, so both hold together; its sign is that of McNemar's exact test.
    """
    tail = (1 - level) / 4
    differ_low, differ_high = clopper_pearson(won + lost, n, tail=tail)
    win_low, win_high = clopper_pearson(won, won + lost, tail=tail) if won + lost else (0.0, 1.0)
    low, high = 2 * win_low - 1, 2 * win_high - 1
    return low * (differ_low if low > 0 else differ_high), high * (differ_high if high > 0 else differ_low)


def tango(won: int, lost: int, n: int, *, level: float, correction: float = 0.5) -> tuple[float, float]:
    """Return Tango's score interval for a paired difference (Statistics in Medicine 17, 1998).

    Args:
        won: Pairs that only we got right.
        lost: Pairs that only they got right.
        n: All pairs.
        level: Of confidence, two-sided.
        correction: Taken from the distance between count and expectation; 0.5 keeps the error below 1 - level
            where the plain interval's (0) is above it by a percent or two.
    """
    z = -float(special.ndtri((1 - level) / 2))

    def low_misses(difference: float) -> float:
        return tango_score(won, lost, n, difference, shift=-correction) - z

    def high_misses(difference: float) -> float:
        return tango_score(won, lost, n, difference, shift=correction) + z

    return _root(low_misses), _root(high_misses)


def tango_score(won: int, lost: int, n: int, difference: float, *, shift: float = 0.0) -> float:
    """Return the score statistic of `won - lost` for a true difference between -1 and 1."""
    a = 2 * n
    b = -won - lost + (2 * n - won + lost) * difference
    c = -lost * difference * (1 - difference)
    only_they = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * only_they + difference * (1 - difference))
    distance = won - lost - n * difference + shift
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _root(function: Callable[[float], float]) -> float:
    """Return where a falling function on (-1, 1) crosses 0, or the end that it never reaches."""
    edge = 1 - 1e-9
    if function(-edge) <= 0:
        return -1.0
    if function(edge) >= 0:
        return 1.0
    return float(brentq(function, -edge, edge, xtol=1e-9))


def mcnemar_p(won: int, lost: int) -> float:
    """Return the two-sided p of McNemar's exact test: are wins and losses equally likely?"""
    return min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5)))


def smallest_passing_n(bound: float, *, level: float) -> int | None:
    """Return the fewest cases with which a rate of 1 would pass this lower bound; None: no number would."""
    if bound >= 1:
        return None
    return math.ceil(math.log((1 - level) / 2) / math.log(bound)) if bound > 0 else 1


def smallest_passing_pairs(margin: float, *, level: float) -> int | None:
    """Return the fewest cases with which a paired difference of rates can pass this lower bound.

    For a margin below 0 (no worse than) that is when no answer differs, else when we win every pair.
    """
    if margin >= 1:
        return None
    least = 1 + margin if margin < 0 else (1 + math.sqrt(1 + 8 * margin)) / 4
    return math.ceil(math.log((1 - level) / 4) / math.log(least)) if least > 0 else 1


def deciding_n(found: Estimate, bound: float, n: int) -> int | None:
    """Return about how many cases would decide, if the value stayed what it is; None when it is on the bound."""
    gap = found.value - bound
    half_width = found.value - found.low if gap > 0 else found.high - found.value
    return math.ceil(n * (half_width / gap) ** 2) if gap else None


def _bounded_mean(values: Sequence[float], *, level: float, low: float, high: float) -> Estimate:
    """Return where one would have won against a true mean below, and above; the two ends mirror each other."""
    width, tail = high - low, (1 - level) / 2
    shares = (numpy.asarray(values, dtype=float) - low) / width
    return Estimate(
        value=sum(values) / len(values),
        low=low + width * _least_mean(shares, tail=tail),
        high=high - width * _least_mean(1 - shares, tail=tail),
        method="betting",
    )


def _least_mean(shares: NDArray[numpy.float64], *, tail: float) -> float:
    def excess(mean: float) -> float:
        return float(log_capital(shares, mean)) + math.log(tail)

    tiny, mean = 1e-9, float(shares.mean())
    return float(brentq(excess, tiny, mean, xtol=1e-9)) if mean > tiny and excess(tiny) > 0 else 0.0


def log_capital(shares: NDArray[numpy.float64], mean: float) -> NDArray[numpy.float64]:
    """Return the logarithm of what 1 grows to by betting that values between 0 and 1 have a larger mean than this one.

    A bet of u turns the money into 1 - u + u * value / mean at each case. Against the true mean nobody can expect to
    win, so the chance to end with 1 / tail is at most tail (Markov), whatever the distribution and the number of cases.
    The capital falls with the mean and is 1 at most at the sample's: where it reaches 1 / tail is the bound.
    """
    with numpy.errstate(divide="ignore"):  # who bets everything on a value of 0 has nothing left
        growth = numpy.log(1 - _BETS + _BETS * (shares[..., None] / mean)).sum(axis=-2)
    found: NDArray[numpy.float64] = special.logsumexp(growth, b=_MONEY, axis=-1)
    return found


def _is_binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
