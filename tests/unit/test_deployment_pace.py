"""Which default steps little traffic leaves, in numbers and in whole lives."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from factories import make_modeldeployment
from luthier.api.modeldeployment import ModelDeploymentSpec, Step
from luthier.deployment.lastday import LastDay
from luthier.deployment.pace import choose_plan
from luthier.naming import child_name
from luthier.ports import Sample
from luthier.status import format_time
from servingworld import NOW, Behaviour, World

HOUR = 24
"""Requests in 24 h of one an hour."""
ONE_METRIC = {"intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def spec(**rollout: Any) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.model_validate({**make_modeldeployment()["spec"], "rollout": rollout})


def weights(steps: list[Step]) -> list[int]:
    assert [step.analysis is not None for step in steps] == [False, True] * (len(steps) // 2)
    return [step.set_weight for step in steps if step.set_weight is not None]


@pytest.mark.parametrize(
    ("per_hour", "analysis", "expected"),
    [
        # In 6 h, 1 % of 1700 an hour is 102 requests, and of 1600 it is 96.
        (1700, {}, [1, 5, 10, 25, 50]),
        (1600, {}, [5, 10, 25, 50]),
        # 240 requests in 6 h: 50 % are 120, 25 % are 60.
        (40, {}, [50]),
        (40, {"minSamples": 60}, [25, 50]),
        (40, {"maxStepSeconds": 86_400}, [25, 50]),
        (40, {"maxStepSeconds": 86_400, "minSamples": 20}, [5, 10, 25, 50]),
    ],
)
def test_only_steps_that_get_their_requests_in_time_are_left(per_hour, analysis, expected):
    chosen = choose_plan(spec(analysis=analysis), LastDay(requests=per_hour * HOUR), now=NOW)
    assert weights(chosen.steps) == expected
    dropped = [weight for weight in (1, 5, 10, 25, 50) if weight not in expected]
    assert (chosen.status.dropped_weights if chosen.status else []) == dropped


def test_the_event_names_the_steps_that_are_left_out_and_the_traffic():
    chosen = choose_plan(spec(), LastDay(requests=40 * HOUR), now=NOW)
    assert chosen.event is not None
    assert chosen.event.message == (
        "960 requests in 24 h are too few to decide 1, 5, 10, 25 % in 6 h: the plan is 50 %"
    )
    assert chosen.status is not None
    assert (chosen.status.requests_last_day, chosen.status.expected_end_at) == (960, None)


def test_one_step_of_half_the_traffic_is_left_when_none_can_be_decided_in_time():
    chosen = choose_plan(spec(), LastDay(requests=10 * HOUR), now=NOW)
    assert weights(chosen.steps) == [50]
    assert chosen.status is not None
    # 5 an hour reach the candidate: 100 take 20 h, and twice that is the limit.
    assert chosen.status.expected_end_at == NOW + timedelta(hours=20)
    assert chosen.status.max_step_seconds == 40 * 3600
    assert chosen.status.dropped_weights == [1, 5, 10, 25, 50]
    assert chosen.event is not None
    assert chosen.event.message.endswith("50 % until 100 requests (expected 2026-01-02T08:00:00Z)")


def test_without_any_request_nobody_can_say_when_it_ends():
    chosen = choose_plan(spec(), LastDay(requests=0), now=NOW)
    assert weights(chosen.steps) == [50]
    assert chosen.status is not None
    assert (chosen.status.expected_end_at, chosen.status.max_step_seconds) == (None, None)
    assert "nobody can say when" in chosen.event.message


def test_steps_that_a_person_wrote_are_never_altered():
    written = spec(steps=[{"setWeight": 1}, {"analysis": {}}])
    chosen = choose_plan(written, LastDay(requests=HOUR), now=NOW)
    assert chosen.steps == written.rollout.steps
    assert (chosen.status, chosen.event) == (None, None)


def test_what_is_not_known_of_the_traffic_leaves_the_default_plan():
    chosen = choose_plan(spec(), LastDay(problem="Prometheus is down"), now=NOW)
    assert weights(chosen.steps) == [1, 5, 10, 25, 50]
    assert chosen.status is None
    assert chosen.event.message == "the default plan, whatever the traffic: Prometheus is down"


# Whole lives


def serving(*, last_day: float | None, **analysis: Any) -> World:
    world = World(rate=20, last_day=last_day)
    world.spec(rollout={"steps": None, "analysis": {"minSamples": 100, **ONE_METRIC, **analysis}})
    world.settle()
    world.run(20)
    return world


def plan_events(world: World) -> list[str]:
    return [event.message for event in world.events if event.reason == "PlanChosen"]


def test_the_plan_is_chosen_once_and_followed_whatever_the_traffic_is_later():
    world = serving(last_day=40 * HOUR)
    world.successor()
    world.settle()
    rollout = world.status["rollout"]
    assert rollout["plan"] == {"requestsLastDay": 960, "droppedWeights": [1, 5, 10, 25]}
    assert rollout["steps"] == [{"setWeight": 50}, {"analysis": {}}]
    assert len(plan_events(world)) == 1
    world.last_day = 1e6
    world.spec(replicas=2)  # any change at all: is the plan still the spec's?
    world.run(4)
    assert world.weights() == {"r1": 50, "r2": 50}
    assert world.status["rollout"]["steps"] == rollout["steps"]
    assert world.run(120, until=lambda: world.condition("Ready") == "True/Promoted")
    assert not [event for event in world.events if event.reason == "PlanDrift"]
    assert len(plan_events(world)) == 1


def test_a_revision_that_is_gone_by_now_counts_for_the_last_day(monkeypatch):
    world, asked = serving(last_day=40 * HOUR), []
    ask = type(world.prometheus).raw

    async def listen(self, query: str) -> list[Sample]:
        asked.append(query)
        return await ask(self, query)

    monkeypatch.setattr(type(world.prometheus), "raw", listen)
    world.successor()
    world.settle()
    pods = {match[1] for query in asked if "24h" in query for match in [re.search(r'pod=~"([^"]+)"', query)]}
    (pattern,) = pods
    gone, other = (child_name(world.obj, name) for name in ("r7-0123abcd", "other-r1-0123abcd"))
    assert re.fullmatch(pattern, f"{gone}-5d9f-abcde")
    assert not re.fullmatch(pattern, f"{other}-5d9f-abcde")


def test_steps_written_in_mid_rollout_are_a_drift_from_the_chosen_ones():
    world = serving(last_day=40 * HOUR)
    world.successor()
    world.settle()
    world.spec(rollout={"steps": [{"setWeight": 5}, {"analysis": {}}]})
    world.settle()
    assert [event for event in world.events if event.reason == "PlanDrift"]


@pytest.mark.parametrize("on_inconclusive", ["Rollback", "Hold"])
def test_the_only_step_is_undecided_after_its_own_time_not_after_max_step_seconds(on_inconclusive):
    # 100 of 2400 a day at 50 %: 7200 s; twice that is the limit.
    world = serving(last_day=2400, maxStepSeconds=600, onInconclusive=on_inconclusive)
    world.rate = 0
    world.successor()
    world.settle()
    plan = world.status["rollout"]["plan"]
    assert plan["maxStepSeconds"] == 14_400
    assert plan["expectedEndAt"] == format_time(world.now + timedelta(seconds=7200))
    world.run(60)
    assert world.weights() == {"r1": 50, "r2": 50}
    with world.without_operator():
        world.run(3000)
    world.run(10)
    assert world.condition("Ready") == "False/RollingOut"
    with world.without_operator():
        world.run(12_000)
    world.run(10)
    ended = {"Rollback": "False/RolledBack", "Hold": "False/RolloutHeld"}
    assert world.condition("Ready") == ended[on_inconclusive]


def test_a_bad_candidate_is_taken_back_from_its_only_step():
    world = serving(last_day=10 * HOUR)
    world.successor()
    world.behaviour["r2"] = Behaviour(errors=0.6)
    assert world.run(120, until=lambda: world.condition("Stalled") == "True/RolledBack")
    assert world.weights() == {"r1": 100}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Prometheus has no 24 h of its requests"),
        ({"prometheus_error": "connection refused"}, "connection refused"),
        ({"last_day": float("nan")}, "Prometheus says nan"),
    ],
)
def test_without_the_last_days_numbers_a_rollout_starts_by_the_default_plan_and_says_so(changes, said):
    world = serving(last_day=None)
    for name, value in changes.items():
        setattr(world, name, value)
    world.successor()
    world.settle()
    assert len(world.status["rollout"]["steps"]) == 10
    assert "plan" not in world.status["rollout"]
    (told,) = plan_events(world)
    assert told.startswith("the default plan, whatever the traffic: ")
    assert said in told


def test_prometheus_is_not_asked_for_a_day_while_nothing_can_start():
    world = serving(last_day=40 * HOUR)
    world.prometheus_hangs = True
    world.settle()
    world.successor()
    world.spec(suspend=True)
    world.settle()
    world.spec(suspend=False)
    world.evaluation["status"]["verdict"] = "Failed"
    world.settle()
    assert world.condition("Stalled") == "True/EvaluationNotPassed"
