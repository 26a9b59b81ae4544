"""An A/B test: requests with a header go to the candidate, both sides are told apart, it ends as every step does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from luthier.api.modeldeployment import MetricStatus
from luthier.deployment.abtest import tell_difference
from luthier.deployment.display import difference
from luthier.headerrule import open_rule
from luthier.status import format_time
from servingworld import Behaviour, Killed, World

BETA = (("x-cohort", "beta"),)
TEST = {"headers": [{"name": "x-cohort", "value": "beta"}]}
STEPS: list[dict[str, Any]] = [{"abTest": TEST}, {"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"intervalSeconds": 2, "minSamples": 60, "metrics": [{"name": "ErrorRate"}]}


def serving(steps: list[dict[str, Any]] = STEPS, **changes: Any) -> World:
    """Return a world whose first revision serves, with an A/B test in its next rollout."""
    world = World(rate=40, **changes)
    rollout = {"steps": steps, "analysis": ANALYSIS, "watchAfterPromotionSeconds": 0}
    world.spec(rollout=rollout)
    world.settle()
    world.run(20)
    return world


def is_open(world: World) -> bool:
    """Say whether the second revision gets the requests with the header."""
    rule = open_rule(world.child("HTTPRoute"))
    return rule is not None and "-r2-" in rule.service and rule.headers == BETA


def in_test(steps: list[dict[str, Any]] = STEPS, **changes: Any) -> World:
    """Return a world in an A/B test whose header is in force."""
    world = serving(steps, **changes)
    world.successor()
    assert world.run(120, until=lambda: is_open(world) and "weightInForceAt" in world.status["rollout"])
    return world


def events(world: World, reason: str) -> list[str]:
    return [event.message for event in world.events if event.reason == reason]


def test_requests_with_the_header_go_to_the_candidate_and_others_by_the_weights():
    world = in_test([{"abTest": {**TEST, "minSamples": 1000}}])
    assert world.weights() == {"r1": 100}
    assert world.status["rollout"]["step"] == 1
    match = world.child("HTTPRoute")["spec"]["rules"][1]["matches"][0]
    assert match["headers"] == [{"type": "Exact", "name": "x-cohort", "value": "beta"}]
    assert match["path"] == world.child("HTTPRoute")["spec"]["rules"][0]["matches"][0]["path"]
    world.run(30)
    (metric,) = world.status["rollout"]["analysis"]["metrics"]
    assert 0.05 < metric["candidateStarted"] / metric["stableStarted"] < 0.3


def test_it_ends_with_what_both_sides_have_shown_and_the_rollout_goes_on_without_the_header():
    world = in_test()
    assert world.run(300, until=lambda: world.weights() == {"r1": 50, "r2": 50})
    assert not is_open(world)
    (result,) = world.status["rollout"]["abTests"]
    assert (result["step"], result["header"], result["weight"]) == (1, "x-cohort: beta", 0)
    (metric,) = result["metrics"]
    assert metric["candidate"]["requests"] >= 60
    assert metric["candidate"]["interval"].startswith("0 to ")
    (said,) = events(world, "AbTestEnded")
    assert f"(0/{metric['candidate']['requests']})" in said
    assert "no significant difference" in said
    assert len(events(world, "AbTestStarted")) == 1
    assert world.run(300, until=lambda: world.condition("Ready") == "True/Promoted")
    assert world.status["history"][0]["abTests"] == [result]


def test_numbers_of_the_test_are_no_part_of_the_next_step():
    world = in_test([*STEPS[:2], {"analysis": {"minSamples": 400}}])
    assert world.run(300, until=lambda: world.weights() == {"r1": 50, "r2": 50})
    world.run(6)
    (metric,) = world.status["rollout"]["analysis"]["metrics"]
    assert metric["candidateStarted"] < 6 * 40
    assert world.run(300, until=lambda: world.condition("Ready") == "True/Promoted")
    assert not events(world, "SplitMismatch")


def test_more_requests_than_the_weight_says_are_no_mismatch_in_it():
    world = in_test([{"setWeight": 10}, {"abTest": {**TEST, "minSamples": 4000}}], beta=0.5)
    assert world.weights() == {"r1": 90, "r2": 10}
    world.run(120)
    assert world.status["rollout"]["step"] == 2
    assert world.condition("Ready") == "False/RollingOut"
    (metric,) = world.status["rollout"]["analysis"]["metrics"]
    assert metric["candidateStarted"] > 2 * 0.1 * 40 * 100


@pytest.mark.parametrize("steps", [STEPS, [{"setWeight": 10}, *STEPS]])
def test_a_candidate_that_is_worse_for_them_is_taken_back_with_one_write(steps):
    world = in_test(steps)
    world.behaviour["r2"] = Behaviour(errors=0.5)
    assert world.run(300, until=lambda: not is_open(world))
    assert world.weights() == {"r1": 100}
    assert world.condition("Stalled") == "True/RolledBack"
    entry = world.status["history"][0]
    assert "weightWrittenAt" in entry
    assert "worse than allowed" in entry["abTests"][0]["metrics"][0]["statement"]
    assert "worse than allowed" in events(world, "AbTestEnded")[0]


def test_the_header_is_in_status_before_it_is_in_the_route():
    world = serving()
    world.successor()
    world.prometheus_error = "connection refused"
    world.run(20)
    assert world.status["rollout"]["step"] == 0
    world.prometheus_error, world.fail_at = None, "traffic"
    with pytest.raises(Killed):
        world.tick()
    assert world.status["rollout"]["step"] == 1
    assert not is_open(world)
    world.fail_at = None
    assert world.run(30, until=lambda: is_open(world))


@pytest.mark.parametrize("fail_at", ["traffic", "status after traffic"])
def test_a_rollback_that_died_between_its_writes_is_finished(fail_at):
    world = in_test()
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.fail_at = fail_at
    with pytest.raises(Killed):
        world.tick()
    assert is_open(world) == (fail_at == "traffic")
    world.fail_at = None
    world.settle()
    assert not is_open(world)
    assert world.condition("Stalled") == "True/Aborted"
    assert "weightWrittenAt" in world.status["history"][0]


def test_a_candidate_without_ready_pods_loses_the_header_without_prometheus():
    world = in_test()
    world.prometheus_hangs = True
    world.set_ready("r2", False)
    world.tick()
    assert not is_open(world)
    assert world.condition("Ready") == "False/NoReadyPods"
    world.prometheus_hangs = False
    world.set_ready("r2", True)
    assert world.run(30, until=lambda: is_open(world))


def test_a_test_that_the_platform_interrupts_begins_again_and_no_weight_grows_for_it():
    world = in_test()
    name, pod = next((n, p) for n, p in world.pods.items() if "-r2-" in n)
    now = format_time(world.now)
    pod["status"] |= {"phase": "Failed", "reason": "Evicted", "startTime": now, "conditions": [{"type": "Ready"}]}
    pod["status"]["conditions"][0]["status"] = "False"
    world.tick()
    assert not is_open(world)
    assert world.condition("Ready") == "False/Interrupted"
    assert "weightWrittenAt" in world.status["history"][0]
    del world.pods[name]
    world.now += timedelta(seconds=2)
    world.add_pod(world.child("Deployment", "r2"), 9)
    assert world.run(30, until=lambda: is_open(world))
    assert (world.status["rollout"]["step"], world.weights()) == (1, {"r1": 100})


def test_nobody_comes_by_a_header_unseen():
    world = serving()
    world.successor()
    world.prometheus_error = "connection refused"
    world.run(60)
    assert not is_open(world)
    assert world.condition("Ready") == "False/MetricsUnavailable"
    world.prometheus_error = None
    assert world.run(60, until=lambda: is_open(world))


def test_a_suspended_test_stays_as_it_is():
    world = in_test()
    world.spec(suspend=True)
    world.run(200)
    assert is_open(world)
    world.spec(suspend=False)
    assert world.run(300, until=lambda: not is_open(world))


def test_the_candidate_has_pods_for_the_requests_that_are_expected():
    world = serving([{"abTest": {**TEST, "expectedPercent": 50}}])
    world.spec(replicas=4)
    world.run(10)
    world.successor()
    assert world.run(120, until=lambda: is_open(world))
    assert world.replicas("r2") == 2


def test_pods_that_are_missing_keep_the_header_away():
    world = serving([{"setWeight": 1}, {"pause": {"durationSeconds": 20}}, {"abTest": {**TEST, "expectedPercent": 60}}])
    world.spec(replicas=2)
    world.run(10)
    world.successor()
    assert world.run(60, until=lambda: world.weights() == {"r1": 99, "r2": 1})
    world.pods_become = "pending"
    world.run(30)
    assert world.replicas("r2") == 2
    assert not is_open(world)
    assert "1 of 2 pods" in world.message("Ready")
    world.set_ready("r2", True)
    assert world.run(30, until=lambda: is_open(world))


def test_in_place_one_pod_is_enough_to_begin():
    world = serving([{"abTest": TEST}])
    world.spec(replicas=2, rollout={"capacity": "InPlace"})
    world.run(10)
    world.successor()
    assert world.run(120, until=lambda: is_open(world))
    assert (world.replicas("r1"), world.replicas("r2")) == (2, 1)
    assert world.run(300, until=lambda: world.condition("Ready") == "True/Promoted")


def test_whom_a_person_has_decided_for_is_not_tested():
    world = in_test()
    name = world.status["candidate"]["name"]
    world.spec(rollout={"promote": {"revision": name, "skipAnalysis": True, "by": "ann", "reason": "urgent"}})
    assert world.run(60, until=lambda: world.condition("Ready") == "True/AnalysisSkipped")
    assert not is_open(world)


def test_a_lost_status_closes_the_header():
    world = in_test()
    del world.obj["status"]
    world.tick()
    assert not is_open(world)
    assert world.run(120, until=lambda: is_open(world))


# In words


def test_the_interval_of_a_difference_is_the_one_that_newcombe_published():
    assert difference((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=0.0001)


def metric(ours: tuple[int, int], theirs: tuple[int, int], **changes: Any) -> MetricStatus:
    counts = {"candidate_bad": ours[0], "candidate_started": ours[1]}
    counts |= {"stable_bad": theirs[0], "stable_started": theirs[1]}
    told = {"name": "ErrorRate", "outcome": "Pass", "evidence": "0.4", "threshold": "100", "bound": "1 %"}
    return MetricStatus.model_validate(told | counts | changes)


@pytest.mark.parametrize(
    ("ours", "theirs", "changes", "said"),
    [
        ((2, 100), (20, 1000), {}, "no significant difference: +0.0 points, 95 % interval -1.8 to +5.1; "),
        ((20, 100), (20, 1000), {}, "significantly higher: +18.0 points, 95 % interval +11.3 to +26.9; "),
        ((0, 300), (60, 1000), {}, "significantly lower: -6.0 points, 95 % interval -7.6 to -4.2; "),
        ((0, 0), (60, 1000), {}, "no statement: 0 requests to the candidate"),
        (
            (20, 100),
            (20, 1000),
            {"outcome": "Fail", "evidence": "412"},
            "worse than allowed (1 %), evidence 412 of 100",
        ),
        ((20, 100), (20, 1000), {"name": "Latency"}, "not shown to be slower than allowed: evidence 0.4 of 100"),
    ],
)
def test_what_is_said_of_two_sides(ours, theirs, changes, said):
    assert tell_difference(metric(ours, theirs, **changes)).startswith(said)
