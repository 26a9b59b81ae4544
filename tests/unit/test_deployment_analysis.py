"""When a look is a Pass and when it is not: no data, stale data, data of some pods, no comparison."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from factories import make_modeldeployment
from luthier.api.modeldeployment import Analysis, ModelDeploymentSpec
from luthier.deployment.analysis import Measured, Scene, choose_p95_edge, read
from luthier.deployment.counters import nearest_edge
from luthier.deployment.memory import MEMORY_LIMIT, Memory, load
from luthier.deployment.metrics import gates_of, threshold
from luthier.ports import Sample
from luthier_server.counters import EDGES, edge_label
from servingworld import Request, arrivals, scrape_pod

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
SINCE = NOW - timedelta(seconds=100)
PODS = {"candidate": ("uid-c", "a-r2-x"), "stable": ("uid-s", "a-r1-x")}


def gating(*metrics):
    spec = make_modeldeployment(rollout={"analysis": {"metrics": [*metrics]}})["spec"]
    return gates_of(ModelDeploymentSpec.model_validate(spec))


ERRORS = gating({"name": "ErrorRate"})


def scene(**changes) -> Scene:
    base = {
        "now": NOW,
        "interval_seconds": 5,
        "scrape_seconds": 2,
        "weight": 50,
        "in_force_at": SINCE,
        "candidate_prefix": "a-r2-",
        "stable_prefix": "a-r1-",
        "candidate_ready": (PODS["candidate"],),
        "stable_ready": (PODS["stable"],),
        "min_samples": 100,
        "threshold": 100.0,
    }
    return Scene(**(base | changes))


def samples(*, candidate=(200, 0), stable=(200, 0), age: float = 1.0, extra: dict[str, tuple[int, int]] | None = None):
    """Return samples of 100 s in which counters grew evenly from 0 to (started, bad)."""
    out = []
    for side, (n, bad) in {"candidate": candidate, "stable": stable}.items():
        uid, name = PODS[side]
        rows = {("luthier_requests_started_total", ()): n, ("luthier_requests_total", ("outcome", "refused")): bad}
        for edge, (c, s) in (extra or {}).items():
            rows[("luthier_request_age_exceeded_total", ("edge", edge))] = c if side == "candidate" else s
            rows[("luthier_requests_aged_total", ("edge", edge))] = n
        for i in range(51):
            at = SINCE.timestamp() + 2 * i - age
            for (metric, label), end in rows.items():
                labels = {"__name__": metric, "pod": name, "pod_uid": uid} | (dict([label]) if label else {})
                out.append(Sample(labels=labels, value=round(end * i / 50), at=at))
    return tuple(out)


def begun(**changes) -> Memory:
    return Memory(at=SINCE.timestamp(), **changes)


def judge(measured: Measured, gates_=ERRORS, memory: Memory | None = None, **changes):
    return read(memory or begun(), gates_, measured, scene(**changes))


def test_enough_healthy_requests_pass():
    reading = judge(Measured(samples=samples()))
    assert reading.outcome == "Pass"
    assert reading.metrics[0].candidate_started >= 190


@pytest.mark.row(50)
def test_a_weight_is_judged_by_requests_that_began_at_it():
    """A look that began before it, and a sample that is compared with one from before it, tell of both weights."""
    into_a_look = SINCE + timedelta(seconds=3)  # the second sample of a look of 5 s that began at SINCE
    reading = judge(Measured(samples=samples(candidate=(200, 10))), in_force_at=into_a_look, min_samples=193)
    assert (reading.code, reading.metrics[0].candidate_started) == ("NotYet(192/193)", 192)
    errors = reading.memory.evidence["ErrorRate"]
    assert reading.memory.requests_exposed == 200
    assert errors.bursts.totals == (200, 0), "what began before is evidence like the rest"


@pytest.mark.parametrize(
    ("sentence", "measured", "changes", "code"),
    [
        ("no samples at all", Measured(), {}, "CoverageLow"),
        ("stale samples", Measured(samples=samples(age=20)), {}, "CoverageLow"),
        (
            "a ready pod that is not scraped",
            Measured(samples=samples()),
            {"candidate_ready": (PODS["candidate"], ("uid-2", "a-r2-y"))},
            "CoverageLow",
        ),
        ("too few requests", Measured(samples=samples(candidate=(60, 0))), {"weight": 23}, "NotYet(59/100)"),
        ("a failing stable", Measured(samples=samples(candidate=(200, 60), stable=(200, 60))), {}, "BaselineUnhealthy"),
        (
            "a suspicion that is no proof yet",
            Measured(samples=samples(candidate=(100, 20), stable=(200, 2))),
            {"min_samples": 50, "threshold": 1e30, "weight": 33},
            "Suspected",
        ),
        ("a stable without requests", Measured(samples=samples(stable=(0, 0))), {"weight": 99}, "NotYet"),
        ("another split than the weight", Measured(samples=samples(stable=(900, 0))), {}, "SplitMismatch"),
        ("a weight that is not in force", Measured(samples=samples()), {"in_force_at": None}, "NotYet"),
    ],
)
@pytest.mark.row(45, 48, 50)
def test_no_pass(sentence, measured, changes, code):
    reading = judge(measured, **changes)
    assert reading.outcome == ("Error" if code == "SplitMismatch" else "Inconclusive"), sentence
    assert reading.code.startswith(code)


def altered(change, rows=None) -> Measured:
    """Return healthy samples, each through `change`: another one, several, or none."""
    found = (change(s) for s in rows or samples())
    return Measured(samples=tuple(s for one in found for s in (one if isinstance(one, tuple) else (one,)) if s))


def of_candidate(value: float, outcome: str | None):
    """Return a change: this is what the candidate's series of an outcome, or of what has started, says."""

    def change(sample: Sample) -> Sample:
        is_meant = sample.labels["pod"] == "a-r2-x" and sample.labels.get("outcome") == outcome
        return replace(sample, value=value) if is_meant else sample

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("outcome", [None, "refused"])
def test_a_scrape_with_a_value_that_no_counter_has_is_none(value, outcome):
    # Its errors no numbers, its requests plain ones: 200 requests without a single error.
    reading = judge(altered(of_candidate(value, outcome), samples(candidate=(200, 80))))
    assert (reading.outcome, reading.code) == ("Inconclusive", "CoverageLow")
    assert "a-r2-x (samples that are no numbers of requests)" in reading.message
    assert reading.metrics[0].candidate_started == 0


def test_requests_without_their_errors_are_no_pass():
    def without_errors(sample: Sample) -> Sample | None:
        is_error = sample.labels["pod"] == "a-r2-x" and "outcome" in sample.labels
        return None if is_error else sample

    reading = judge(altered(without_errors, samples(candidate=(200, 80))))
    assert (reading.outcome, reading.code) == ("Inconclusive", "CoverageLow")
    assert "no sample of luthier_requests_total" in reading.message


def test_samples_from_the_future_are_told():
    reading = judge(altered(lambda s: replace(s, at=s.at + 600)))
    assert (reading.outcome, reading.code) == ("Inconclusive", "CoverageLow")
    assert "samples from the future" in reading.message


def test_a_pod_that_is_scraped_twice_is_counted_once():
    def twice(sample: Sample) -> tuple[Sample, Sample]:
        # The other scraper's clock is 3 s ahead: read together, the counters would fall at each scrape.
        one, other = ({**sample.labels, "prometheus": name} for name in ("a", "b"))
        return replace(sample, labels=one), replace(sample, labels=other, at=sample.at + 3)

    once, double = judge(Measured(samples=samples())), judge(altered(twice))
    assert double.metrics == once.metrics
    same_clock = altered(lambda s: (s, replace(s, labels={**s.labels, "job": "again"})))
    assert judge(same_clock).metrics == once.metrics


def test_counters_that_fall_in_mid_run_are_somebodys_old_samples():
    cut = NOW.timestamp() - 20

    def replayed(sample: Sample) -> Sample:
        return replace(sample, value=sample.value // 4) if sample.at > cut else sample

    since = {"uid-c": SINCE.timestamp() - 3600, "uid-s": SINCE.timestamp() - 3600}
    reading = judge(altered(replayed), running_since=since)
    assert (reading.outcome, reading.code) == ("Inconclusive", "CoverageLow")
    assert "fewer requests than before, and no restart" in reading.message
    assert reading.metrics[0].candidate_started < 200
    restarted = judge(altered(replayed), running_since={"uid-c": cut, "uid-s": cut})
    assert restarted.outcome == "Pass"


def test_a_breach_is_a_fail_with_the_numbers_and_the_time():
    reading = judge(Measured(samples=samples(candidate=(200, 80), stable=(200, 2))))
    assert reading.outcome == "Fail"
    assert reading.message.startswith("errors 39 % (14/36)")
    assert "≥ 100" in reading.message
    assert SINCE < reading.failed_at < NOW
    assert reading.memory.at == reading.failed_at.timestamp()  # what came later does not talk it away


def test_a_query_that_failed_is_an_error_and_keeps_the_memory():
    memory = begun(restarts=3)
    reading = judge(Measured(error="Prometheus at http://x cannot be reached"), memory=memory)
    assert (reading.outcome, reading.code) == ("Error", "MetricsUnavailable")
    assert reading.memory == memory


def test_replaying_in_two_passes_or_in_one_is_the_same():
    measured = Measured(samples=samples(candidate=(200, 5), stable=(200, 4)))
    once = judge(measured)
    half = read(begun(), ERRORS, measured, scene(now=NOW - timedelta(seconds=50)))
    stored = load(half.memory.dump())
    twice = read(stored, ERRORS, measured, scene())
    assert once.memory.evidence["ErrorRate"].totals == twice.memory.evidence["ErrorRate"].totals
    assert once.metrics[0].evidence == twice.metrics[0].evidence


def test_a_memory_of_many_pods_stays_within_its_limit():
    from luthier.deployment.counters import PodCounters

    pods = {f"{i:036d}": PodCounters(arm="stable", at=1.0, values={"started": 10**9}) for i in range(2000)}
    text = Memory(at=1.0, pods=pods).dump()
    assert len(text) < MEMORY_LIMIT
    assert load(text) is not None


def test_a_memory_that_nobody_understands_is_begun_anew():
    assert load(None) is None
    assert load("{}") is None
    assert load("no json") is None
    assert load(json.dumps({"v": 9})) is None


def test_latency_compares_the_candidate_at_a_fifth_more():
    [gate] = gating({"name": "Latency"})
    assert gate.slower_edges == 2
    edges = begun(edge=30).edges((gate,))
    assert EDGES[edges.slow_candidate] / EDGES[edges.slow_stable] == pytest.approx(1.2)


def test_latency_without_a_known_p95_neither_fails_nor_passes():
    reading = judge(Measured(samples=samples()), gating({"name": "Latency"}))
    assert reading.outcome == "Inconclusive"


def test_latency_under_another_load_may_fail_but_never_pass():
    gates_ = gating({"name": "Latency"})
    memory = begun(edge=30, edge_at=NOW.timestamp())
    slow = {edge_label(EDGES[32]): (150, 0), edge_label(EDGES[30]): (0, 10)}
    failed = judge(
        Measured(samples=samples(candidate=(200, 0), stable=(2000, 0), extra=slow)), gates_, memory, weight=10
    )
    assert failed.outcome == "Fail"
    fast = {edge_label(EDGES[32]): (0, 0), edge_label(EDGES[30]): (0, 10)}
    equal = judge(
        Measured(samples=samples(candidate=(95, 0), stable=(200, 0), extra=fast)),
        gates_,
        memory,
        weight=35,
        min_samples=50,
    )
    assert equal.code == "NotComparable"


def test_latency_is_not_waited_for_where_it_cannot_be_compared():
    gates_ = gating({"name": "ErrorRate"}, {"name": "Latency"})
    memory = begun(edge=30, edge_at=NOW.timestamp())
    unhurried = {edge_label(EDGES[i]): (0, 0) for i in (30, 34, 32)}
    reading = judge(Measured(samples=samples(stable=(2000, 0), extra=unhurried)), gates_, memory, weight=10)
    assert reading.outcome == "Pass"
    assert [m.outcome for m in reading.metrics] == ["Pass", "Inconclusive"]


def scraped(side: str, requests: list[Request], edges: Iterable[int], *, until: int) -> list[Sample]:
    return scrape_pod(PODS[side], requests, edges, began=SINCE.timestamp(), until=until)


def test_a_stable_is_judged_by_its_last_minutes():
    # Ten minutes of good answers, then half of them bad; and the other way round.
    rng, until = random.Random(0), 1200
    for first, then, outcome in ((0.0, 0.5, "BaselineUnhealthy"), (0.5, 0.0, "Pass")):
        requests = arrivals(rng, 5, until, lambda i: 0.1)
        for i, r in enumerate(requests):
            if rng.random() < (first if r.start < 600 else then):
                requests[i] = Request(r.start, r.seconds, "server_error")
        measured = scraped("stable", requests, (), until=until) + scraped("candidate", requests, (), until=until)
        reading = judge(Measured(samples=tuple(measured)), now=SINCE + timedelta(seconds=until))
        assert reading.code == outcome, reading.message


def answers_checked(*, candidate: tuple[int, int], stable: tuple[int, int]) -> Measured:
    measured = samples(candidate=(200, 0), stable=(200, 0))
    for side, (checked, invalid) in {"candidate": candidate, "stable": stable}.items():
        names = {
            "luthier_requests_started_total": "luthier_responses_checked_total",
            "luthier_requests_total": "luthier_responses_invalid_format_total",
        }
        as_checks = samples(**{side: (checked, invalid)})
        mine = [s for s in as_checks if s.labels["pod"] == PODS[side][1]]
        measured += tuple(replace(s, labels={**s.labels, "__name__": names[s.labels["__name__"]]}) for s in mine)
    return Measured(samples=measured)


@pytest.mark.parametrize("floor", ["1", "0"])
def test_a_successor_of_a_stable_that_checks_no_answers_is_judged_by_the_floor(floor):
    gates_ = gating({"name": "FormatValidity", "floorPercent": floor})
    assert judge(answers_checked(candidate=(200, 0), stable=(0, 0)), gates_).outcome == "Pass"
    assert judge(answers_checked(candidate=(200, 60), stable=(0, 0)), gates_).outcome == "Fail"
    # Against one that checks, and is as bad, it is no worse.
    assert judge(answers_checked(candidate=(200, 60), stable=(200, 60)), gates_).outcome == "Pass"


@pytest.mark.parametrize("rate", [1.0, 10.0])
@pytest.mark.parametrize("metric", [{"name": "Latency"}, {"name": "LatencyCeiling", "ceilingSeconds": "12"}])
def test_a_slow_start_is_left_out_until_its_slowness_has_shown(metric, rate):
    [gate] = gates_ = gating(metric)
    p95, until = nearest_edge(12), 400
    edges = (p95, p95 + gate.slower_edges, gate.over or p95)
    cold = 20 if rate > 1 else 3  # those of the first minute
    for seed in range(5):
        rng = random.Random(seed)
        slow_start = arrivals(rng, 0.1 * rate, until, lambda i: 30.0 if i < cold else 8.0)
        stable = arrivals(rng, 0.9 * rate, until, lambda i, rng=rng: 13.0 if rng.random() < 0.05 else 8.0)
        measured = scraped("candidate", slow_start, edges, until=until) + scraped("stable", stable, edges, until=until)
        memory = begun(edge=p95, edge_at=SINCE.timestamp())
        now = SINCE + timedelta(seconds=until)
        reading = judge(Measured(samples=tuple(measured)), gates_, memory, weight=10, now=now, min_samples=5)
        assert reading.outcome != "Fail", reading.message
        assert reading.metrics[0].candidate_started > 22, "at 0.1 requests a second, the minute ends the warm-up"


def test_requests_that_nobody_has_timed_yet_do_not_make_the_stable_look_bursty():
    gates_ = gating({"name": "Latency"})
    rng, p95, until = random.Random(0), nearest_edge(2), 1200
    stable = arrivals(rng, 5, until, lambda i: 2.5 if rng.random() < 0.05 else 1.0)
    slower = arrivals(rng, 5, until, lambda i: 2.5 if i < 2500 or rng.random() < 0.1 else 1.0)
    edges = (p95, p95 + 2)
    all_ = scraped("stable", stable, edges, until=until) + scraped("candidate", slower, edges, until=until)
    # The first look finds ten minutes of counters and no edge; the second has one.
    blind = tuple(s for s in all_ if "edge" not in s.labels and s.at <= SINCE.timestamp() + 600)
    now = SINCE + timedelta(seconds=600)
    first = judge(Measured(samples=blind, p95_edge=p95), gates_, begun(), now=now, in_force_at=None)
    second = judge(
        Measured(samples=tuple(all_)), gates_, first.memory, now=SINCE + timedelta(seconds=until), in_force_at=now
    )
    assert second.memory.evidence["Latency"].bursts.factor < 1.5


def test_the_p95_edge_needs_requests():
    assert choose_p95_edge([Sample(labels={}, value=math.nan, at=0)]) is None
    few = [Sample(labels={}, value=19, at=0), Sample(labels={"edge": edge_label(EDGES[40])}, value=1, at=0)]
    assert choose_p95_edge(few) is None
    shares = {38: 20, 39: 10, 40: 6, 41: 4, 42: 0}
    many = [Sample(labels={}, value=100, at=0)]
    many += [Sample(labels={"edge": edge_label(EDGES[i])}, value=v, at=0) for i, v in shares.items()]
    assert choose_p95_edge(many) == 40


def test_the_allowed_chance_is_shared_by_the_metrics():
    assert threshold(Analysis(), 1) == 100
    assert threshold(Analysis(), 5) == 500


def test_the_default_metrics_follow_the_response_schema():
    without = ModelDeploymentSpec.model_validate(make_modeldeployment(rollout=None)["spec"])
    assert [g.name for g in gates_of(without)] == ["ErrorRate", "Latency"]
    with_schema = ModelDeploymentSpec.model_validate(make_modeldeployment(rollout=None, responseSchema="{}")["spec"])
    assert [g.name for g in gates_of(with_schema)] == ["ErrorRate", "Latency", "FormatValidity"]
