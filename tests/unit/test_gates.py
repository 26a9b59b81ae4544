"""The pieces of the sequential test, by numbers that can be checked by hand."""

from __future__ import annotations

import json
import math

import pytest

from luthier.deployment.gates import (
    DEFAULT_BURSTINESS,
    FLOOR_GROWTH,
    GROWTH,
    Burstiness,
    Counts,
    Evidence,
    Hypothesis,
    Process,
    format_log,
    has_failed,
    log_evidence,
    look,
    restart,
)

RATIO = Hypothesis(ratio=1.0, floor=None)
FLOOR = Hypothesis(ratio=None, floor=0.01)
BOTH = Hypothesis(ratio=1.1, floor=0.01)
INDEPENDENT = Burstiness(buckets=((0, 10**6, 10**4, 0, 0, 0),))


def counts(k_c: int, n_c: int, k_s: int, n_s: int) -> Counts:
    return Counts(candidate_bad=k_c, candidate_started=n_c, stable_bad=k_s, stable_started=n_s)


def begun() -> Evidence:
    return restart(Evidence(bursts=INDEPENDENT), 1)


def test_one_bad_candidate_request_of_two_multiplies_by_the_ratio_of_shares():
    # n_c = n_s = 1, R0 = 1: the candidate's share of bad requests is 1/2 under H0, g/(g+1) under each alternative.
    after = look(begun(), RATIO, counts(1, 1, 0, 1), at=1)
    expected = sum(0.5 * (g / (g + 1)) / 0.5 for g in GROWTH) / len(GROWTH)
    assert math.exp(log_evidence(after, RATIO)) == pytest.approx(expected)


def test_the_expected_factor_under_the_border_is_one():
    # One bad request in a stratum of 3 candidate and 7 stable requests, at R0 = 1.1.
    share = 3 * 1.1 / (3 * 1.1 + 7)
    hypothesis = Hypothesis(ratio=1.1, floor=None)
    up = look(begun(), hypothesis, counts(1, 3, 0, 7), at=1)
    down = look(begun(), hypothesis, counts(0, 3, 1, 7), at=1)
    mean = share * math.exp(log_evidence(up, hypothesis)) + (1 - share) * math.exp(log_evidence(down, hypothesis))
    assert mean == pytest.approx(0.5)  # the first restart's weight


def test_the_floor_multiplies_by_likelihood_ratios():
    after = look(begun(), FLOOR, counts(1, 2, 0, 0), at=1)
    rates = [min(0.97, 0.01 * g) for g in FLOOR_GROWTH]
    expected = sum(0.5 * (q / 0.01) * ((1 - q) / 0.99) for q in rates) / len(rates)
    assert math.exp(log_evidence(after, FLOOR)) == pytest.approx(expected)


def test_a_floor_near_everything_is_never_exceeded():
    after = look(begun(), Hypothesis(ratio=None, floor=0.98), counts(50, 50, 0, 0), at=1)
    assert log_evidence(after, Hypothesis(ratio=None, floor=0.98)) <= 0


def test_both_parts_must_be_refuted():
    shared = look(begun(), BOTH, counts(50, 100, 50, 100), at=1)  # half of both fails: only the floor is refuted
    assert log_evidence(shared, FLOOR) > 20
    assert log_evidence(shared, BOTH) < 0


def test_a_stratum_stays_open_until_both_sides_have_started_a_request():
    waiting = look(begun(), RATIO, counts(0, 0, 2, 5), at=1)
    assert waiting.stratum == counts(0, 0, 2, 5)
    assert log_evidence(waiting, RATIO) == -math.inf
    closed = look(waiting, RATIO, counts(1, 1, 0, 5), at=2)
    assert closed.stratum == Counts()
    direct = look(begun(), RATIO, counts(1, 1, 2, 10), at=2)
    assert closed.relative.log_s == pytest.approx(direct.relative.log_s)


def test_all_restarts_together_weigh_one():
    assert sum(math.exp(Process().restarted(r).log_weight) for r in range(1, 2000)) == pytest.approx(1, abs=1e-3)


def test_a_restart_helps_after_a_healthy_past():
    healthy = begun()
    for t in range(200):
        healthy = look(healthy, RATIO, counts(0, 5, 3, 5), at=t)
    breach = [counts(5, 5, 0, 5)] * 8
    kept, again = healthy, restart(healthy, 2)
    for t, span in enumerate(breach):
        kept, again = look(kept, RATIO, span, at=300 + t), look(again, RATIO, span, at=300 + t)
    assert not has_failed(kept, RATIO, threshold=500)
    assert has_failed(again, RATIO, threshold=500)


def test_three_bad_requests_are_the_least_to_fail():
    two = look(begun(), FLOOR, counts(2, 2, 0, 2), at=1)
    assert math.exp(log_evidence(two, FLOOR)) > 100
    assert not has_failed(two, FLOOR, threshold=100)
    assert has_failed(look(two, FLOOR, counts(1, 1, 0, 1), at=2), FLOOR, threshold=100)


def test_burstiness_is_a_guess_then_measured_then_forgotten():
    assert Burstiness().factor == DEFAULT_BURSTINESS
    bursts = Burstiness()
    for t in range(600):
        bursts = bursts.seen(at=t, started=10, bad=10 if t % 20 == 0 else 0)
    assert 9 < bursts.factor < 10  # ten at a time: variance over mean is about ten
    even = Burstiness()
    for t in range(600):
        even = even.seen(at=t, started=10, bad=t % 2)
    assert even.factor == 1.0
    later = bursts.seen(at=600 + 3600, started=10, bad=0)
    assert later.factor == DEFAULT_BURSTINESS


def test_the_memory_survives_json():
    evidence = look(look(begun(), BOTH, counts(1, 4, 0, 9), at=5), BOTH, counts(0, 0, 1, 9), at=6)
    again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    assert again.totals == evidence.totals
    assert again.stratum == evidence.stratum
    assert again.bursts == evidence.bursts
    assert log_evidence(again, BOTH) == pytest.approx(log_evidence(evidence, BOTH), abs=1e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(-math.inf, "0"), (0.0, "1"), (math.log(42), "42"), (math.log(21234), "2.1e4"), (5000.0, "3.0e2171")],
)
def test_evidence_is_written_for_people(value, text):
    assert format_log(value) == text
