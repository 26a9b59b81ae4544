"""Intervals: known values, exact error rates by enumeration, and false passes of means by simulation."""

from __future__ import annotations

import math
from functools import cache

import numpy
import pytest
from scipy.stats import binom, multinomial

from luthier_eval import stats

NOMINAL = 0.025
"""Chance of a false pass that a two-sided 95 % interval allows."""


def allowed(runs: int, rate: float = NOMINAL) -> float:
    """Return the share of false passes that a one-sided 1 % binomial test of so many runs lets through."""
    return float(binom.isf(0.01, runs, rate)) / runs


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (20, 20, 0.8316, 1.0),
        (0, 20, 0.0, 0.1684),
        (8, 10, 0.4439, 0.9748),
        (126, 144, 0.8097, 0.9242),
        (1, 1, 0.025, 1.0),
    ],
)
def test_rates_have_clopper_and_pearsons_interval(successes, n, low, high):
    found = stats.estimate_rate(successes, n, level=0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5, 0.7, 0.9, 0.98, 0.999])
def test_false_passes_of_a_rate_are_at_most_nominal(n, rate):
    passes = [k for k in range(n + 1) if stats.estimate_rate(k, n, level=0.95).low > rate]
    fails = [k for k in range(n + 1) if stats.estimate_rate(k, n, level=0.95).high < rate]
    assert binom.pmf(passes, n, rate).sum() <= NOMINAL
    assert binom.pmf(fails, n, rate).sum() <= NOMINAL


def test_plain_tango_gives_his_published_example():
    # Tango 1998: 44 pairs, of which one differs; (-0.1181, 0.0594).
    assert stats.tango(0, 1, 44, level=0.95, correction=0) == pytest.approx((-0.1181, 0.0594), abs=5e-5)


def test_plain_tango_without_differing_pairs_is_known_in_closed_form():
    z2 = 1.959964**2
    assert stats.tango(0, 0, 100, level=0.95, correction=0) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)))


@pytest.mark.parametrize(("won", "lost", "n"), [(14, 5, 54), (30, 12, 144), (117, 1, 144), (3, 2, 40)])
def test_tango_mirrors_when_the_sides_change_places(won, lost, n):
    low, high = stats.tango(won, lost, n, level=0.95)
    assert stats.tango(lost, won, n, level=0.95) == pytest.approx((-high, -low), abs=1e-6)
    assert low < (won - lost) / n < high


@cache
def _paired(n):
    return {(w, x): stats.estimate_paired(w, x, n, level=0.95) for w in range(n + 1) for x in range(n + 1 - w)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("won", "lost"),
    [(0.01, 0), (0.02, 0.01), (0.05, 0.05), (0.1, 0.02), (0.02, 0.1), (0.3, 0.3), (0.6, 0.1), (0.9, 0.05), (0.99, 0)],
)
@pytest.mark.parametrize(("n", "bound"), [(20, NOMINAL), (32, allowed(2000))])
def test_false_passes_of_a_paired_difference(n, bound, won, lost):
    true = won - lost
    chances = [won, lost, 1 - won - lost]
    passing = [pair for pair, found in _paired(n).items() if found.low > true + 1e-9]
    failing = [pair for pair, found in _paired(n).items() if found.high < true - 1e-9]
    for pairs in (passing, failing):
        assert sum(multinomial.pmf([w, x, n - w - x], n, chances) for w, x in pairs) <= bound


def test_a_paired_difference_uses_exact_methods_under_30_cases_or_with_few_differences():
    assert stats.estimate_paired(15, 10, 29, level=0.95).method == "exact paired"
    assert stats.estimate_paired(8, 0, 100, level=0.95).method == "exact paired"
    assert stats.estimate_paired(60, 20, 144, level=0.95).method == "Tango"


@pytest.mark.parametrize(("won", "lost"), [(8, 0), (9, 1), (7, 2), (5, 5), (0, 0), (4, 0)])
def test_the_exact_difference_has_the_sign_of_mcnemars_test(won, lost):
    low, _ = stats.exact_paired(won, lost, 50, level=0.95)
    assert (low > 0) == (stats.mcnemar_p(won, lost) <= 0.025 and won > lost)


def test_mcnemar_exact_p():
    assert stats.mcnemar_p(8, 0) == pytest.approx(2 / 256)
    assert stats.mcnemar_p(5, 5) == 1
    assert stats.mcnemar_p(0, 0) == 1


@pytest.mark.parametrize("n", [1, 5, 20, 200])
def test_a_mean_of_ones_is_no_surer_than_a_rate_of_one(n):
    found = stats.estimate_mean([1.0 - 1e-9] * n, level=0.95)
    exact, _ = stats.clopper_pearson(n, n, tail=0.025)
    assert 0.7 * exact < found.low <= exact


def test_an_interval_of_a_mean_ends_where_the_bets_have_won():
    values = [math.sin(i) ** 2 for i in range(40)]
    found = stats.estimate_mean(values, level=0.95)
    assert found == stats.estimate_mean(values, level=0.95)
    ends = [
        stats.log_capital(numpy.array(values), found.low),
        stats.log_capital(1 - numpy.array(values), 1 - found.high),
    ]
    assert ends == pytest.approx([math.log(1 / NOMINAL)] * 2, abs=1e-5)
    mirrored = stats.estimate_mean([1 - value for value in values], level=0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


@pytest.mark.parametrize("values", [[1e-12], [0.0, 1e-300, 1.0], [0.5], [1.0 - 1e-12, 1.0]])
def test_an_interval_of_a_mean_is_never_outside_of_what_is_possible(values):
    found = stats.estimate_mean(values, level=0.95)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_values_that_never_differ_bound_their_difference_nearly_as_tightly_as_answers_do():
    same = [0.5 + 0.001 * (i % 7) for i in range(250)]
    found = stats.estimate_difference(same, same, level=0.95)
    assert found.low >= -0.02
    assert found.high == -found.low
    assert stats.exact_paired(0, 0, 250, level=0.95)[0] == pytest.approx(found.low, abs=0.002)


def test_differences_of_values_are_paired_by_case():
    ours = [0.5 + 0.4 * math.sin(i) ** 2 for i in range(40)]
    theirs = [value - 0.25 - 0.01 * (i % 7) for i, value in enumerate(ours)]
    found = stats.estimate_difference(ours, theirs, level=0.95)
    assert found.value == pytest.approx(0.2787, abs=1e-3)
    apart = [stats.estimate_mean(side, level=0.95) for side in (ours, theirs)]
    widths = [side.high - side.low for side in apart]
    assert found.high - found.low < sum(widths), "the spread of the values themselves has no part in it"
    with pytest.raises(ValueError, match="same cases"):
        stats.estimate_difference([1.0], [1.0, 0.0], level=0.95)


RUNS = 4000
# Rare complete failures beside good answers: what a sample of this size often does not hold at all.
RARE_FAILURES = ((1.0, 0.9, 0.0), (0.5, 0.47, 0.03))
RARER_FAILURES = ((1.0, 0.95, 0.9, 0.0), (0.4, 0.3, 0.29, 0.01))
USUAL = ((1.0, 0.8, 2 / 3, 0.5, 0.0), (0.6, 0.15, 0.1, 0.1, 0.05))
RARE_LOSSES = ((0.55, 0.5, 0.0), (0.3, 0.67, 0.03))
"""Paired differences of +0.1, 0 and -1, as shares of the way from -1 to 1."""


@pytest.mark.parametrize(
    ("n", "shape"),
    [
        *((n, shape) for n in (20, 40, 60) for shape in (RARE_FAILURES, USUAL, RARE_LOSSES)),
        (200, RARER_FAILURES),
        (20, "beta"),
        (40, "beta"),
    ],
)
def test_false_passes_of_a_mean_by_simulation(n, shape):
    """An end lies beyond the true mean exactly when the bets against that mean have won."""
    random = numpy.random.default_rng(7)
    if shape == "beta":
        samples, true = random.beta(8, 1, (RUNS, n)), 8 / 9
    else:
        values, chances = map(numpy.array, shape)
        samples, true = random.choice(values, p=chances, size=(RUNS, n)), float(values @ chances)
    for drawn, mean in ((samples, true), (1 - samples, 1 - true)):
        false = int((stats.log_capital(drawn, mean) > math.log(1 / NOMINAL)).sum())
        assert false / RUNS <= allowed(RUNS)


def test_fewest_cases_that_can_pass():
    assert stats.smallest_passing_n(0.7, level=0.95) == 11
    assert stats.estimate_rate(11, 11, level=0.95).low >= 0.7 > stats.estimate_rate(10, 10, level=0.95).low
    assert stats.smallest_passing_n(1.0, level=0.95) is None
    assert stats.smallest_passing_n(0, level=0.95) == 1


@pytest.mark.parametrize(("margin", "won"), [(0.05, True), (0.5, True), (-0.02, False), (-0.1, False)])
def test_fewest_pairs_that_can_pass(margin, won):
    n = stats.smallest_passing_pairs(margin, level=0.95)
    assert stats.exact_paired(n if won else 0, 0, n, level=0.95)[0] >= margin - 1e-12
    assert stats.exact_paired(n - 1 if won else 0, 0, n - 1, level=0.95)[0] < margin


def test_more_cases_decide_what_is_open():
    found = stats.estimate_rate(60, 80, level=0.95)
    needed = stats.deciding_n(found, 0.7, 80)
    assert 80 < needed < 1000
    assert stats.estimate_rate(round(0.75 * needed), needed, level=0.95).low >= 0.69
    assert stats.deciding_n(found, found.value, 80) is None
