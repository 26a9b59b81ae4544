"""The step machine, one row a sentence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from factories import make_modeldeployment
from luthier.api.conditions import Reason
from luthier.api.modeldeployment import Analysis, ModelDeploymentSpec, Step
from luthier.deployment.rollout import Brake, Facts, GiveUp, Position, advance, plan_of

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
AGO = NOW - timedelta(seconds=100)
PLAN = [
    Step.model_validate(s)
    for s in (
        {"setWeight": 10},
        {"analysis": {}},
        {"pause": {"durationSeconds": 60}},
        {"pause": {}},
        {"setWeight": 10},
        {"setWeight": 50},
    )
]


def at(step: int, weight: int, *, started: datetime = AGO, confirmed: bool = True) -> Position:
    return Position(step=step, weight=weight, started_at=started, in_force_at=AGO if confirmed else None)


def facts(**changes) -> Facts:
    base = {
        "now": NOW,
        "candidate": "r2-aaaaaaaa",
        "capacity": None,
        "in_force": True,
        "gateway": None,
        "brake": None,
        "analysis": Analysis(max_step_seconds=1000),
        "outcome": "Inconclusive",
        "judged_since": AGO,
    }
    return Facts(**(base | changes))


SUSPENDED = Brake(reason=Reason.SUSPENDED, message="spec.suspend is true")
FORCED = {"forced": True, "pauses_approved": True}
PASSED = {"outcome": "Pass", "judged_step": 2}
ROWS = {
    "the first step begins when the candidate is ready": (at(0, 0), {}, (1, 10), "RollingOut"),
    "nothing begins before it is": (at(0, 0), {"capacity": "0 of 1 pods"}, (0, 0), "RollingOut"),
    "nothing begins without metrics": (at(0, 0), {"outcome": "Error"}, (0, 0), "MetricsUnavailable"),
    "nothing begins while suspended": (at(0, 0), {"brake": SUSPENDED}, (0, 0), "Suspended"),
    "a weight is awaited until the gateway has it": (at(1, 10), {"in_force": False}, (1, 10), "RollingOut"),
    "a weight that no gateway takes waits for one": (
        at(1, 10),
        {"in_force": False, "gateway": "Gateway x has not accepted the route"},
        (1, 10),
        "WaitingForGateway",
    ),
    "a weight in force leads to the next step": (at(1, 10), {}, (2, 10), "RollingOut"),
    "an analysis waits for its verdict": (at(2, 10), {"judged_step": 2}, (2, 10), "RollingOut"),
    "an analysis that passed goes on": (at(2, 10), PASSED, (3, 10), "RollingOut"),
    "a pass of another step does not count": (at(2, 10), PASSED | {"judged_step": 1}, (2, 10), "RollingOut"),
    "a pass at another weight does not count": (at(2, 10), PASSED | {"judged_since": NOW}, (2, 10), "RollingOut"),
    "a pass before minStepSeconds waits": (
        at(2, 10),
        PASSED | {"analysis": Analysis(min_step_seconds=101)},
        (2, 10),
        "RollingOut",
    ),
    "an analysis without metrics is held": (at(2, 10), {"outcome": "Error"}, (2, 10), "MetricsUnavailable"),
    "an analysis of a failing stable is held": (
        at(2, 10),
        {"code": "BaselineUnhealthy"},
        (2, 10),
        "BaselineUnhealthy",
    ),
    "an undecided analysis is held after maxStepSeconds": (
        at(2, 10),
        {"analysis": Analysis(max_step_seconds=60)},
        (2, 10),
        "RolloutHeld",
    ),
    "and goes on when it passes at last": (
        at(2, 10),
        PASSED | {"analysis": Analysis(max_step_seconds=60)},
        (3, 10),
        "RollingOut",
    ),
    "a pause with a duration waits for it": (at(3, 10, started=NOW), {}, (3, 10), "RollingOut"),
    "a pause without one waits for approval": (at(3, 10), {}, (4, 10), "WaitingForApproval"),
    "an approval of another step is none": (at(4, 10), {"approved": frozenset({3})}, (4, 10), "WaitingForApproval"),
    "an approval goes on, over an equal weight, to the next": (
        at(4, 10),
        {"approved": frozenset({4})},
        (6, 50),
        "RollingOut",
    ),
    "a promotion approves every pause, with a duration or without": (
        at(3, 10, started=NOW),
        {"pauses_approved": True},
        (6, 50),
        "RollingOut",
    ),
    "a promotion is no pass of an analysis": (at(2, 10), {"pauses_approved": True}, (2, 10), "RollingOut"),
    "a promotion without analysis goes on, weight by weight": (at(2, 10), FORCED, (6, 50), "RollingOut"),
    "it goes on without metrics": (at(2, 10), FORCED | {"outcome": "Error"}, (6, 50), "RollingOut"),
    "it goes on over a fail": (at(2, 10), FORCED | {"outcome": "Fail"}, (6, 50), "RollingOut"),
    "it goes on beside a failing stable": (at(5, 10), FORCED | {"code": "BaselineUnhealthy"}, (6, 50), "RollingOut"),
    "it waits for capacity": (at(5, 10), FORCED | {"capacity": "0 of 1 pods"}, (5, 10), "RollingOut"),
    "it waits for the gateway": (at(1, 10), FORCED | {"in_force": False}, (1, 10), "RollingOut"),
    "it waits for whoever holds the brake": (at(2, 10), FORCED | {"brake": SUSPENDED}, (2, 10), "Suspended"),
    "more weight waits for capacity": (at(5, 10), {"capacity": "1 of 2 pods"}, (5, 10), "RollingOut"),
    "more weight waits for metrics": (at(5, 10), {"outcome": "Error"}, (5, 10), "MetricsUnavailable"),
    "more weight waits for pods that are not scraped": (at(5, 10), {"code": "CoverageLow"}, (5, 10), "RollingOut"),
    "so does the first weight": (at(0, 0), {"code": "CoverageLow"}, (0, 0), "RollingOut"),
    "and after five minutes people are told": (
        at(0, 0),
        {"code": "CoverageLow", "now": AGO + timedelta(minutes=5)},
        (0, 0),
        "MetricsUnavailable",
    ),
    "and so does the last, after a pause": (
        at(6, 50),
        {"code": "CoverageLow"},
        (6, 50),
        "RollingOut",
    ),
    "more weight waits for a stable that fails": (
        at(5, 10),
        {"code": "BaselineUnhealthy"},
        (5, 10),
        "BaselineUnhealthy",
    ),
    "after the last step comes all traffic": (at(6, 50), {}, (7, 100), "RollingOut"),
}


@pytest.mark.parametrize("sentence", ROWS)
def test_steps(sentence):
    position, changes, expected, reason = ROWS[sentence]
    move = advance(PLAN, position, facts(**changes))
    assert (move.position.step, move.position.weight) == expected
    assert move.stay.reason == reason


def test_all_traffic_in_force_has_arrived():
    assert advance(PLAN, at(7, 100), facts()).stay is None
    assert advance(PLAN, at(7, 100), facts(in_force=False)).stay is not None


def test_an_undecided_analysis_gives_up_when_the_spec_says_so():
    analysis = Analysis(max_step_seconds=60, on_inconclusive="Rollback")
    assert isinstance(advance(PLAN, at(2, 10), facts(analysis=analysis)).stay, GiveUp)


def test_time_without_metrics_or_suspended_is_no_part_of_max_step_seconds():
    analysis = Analysis(max_step_seconds=90, on_inconclusive="Rollback")
    undecided = facts(analysis=analysis)
    for blind in (facts(analysis=analysis, outcome="Error"), facts(analysis=analysis, brake=SUSPENDED)):
        early = NOW - timedelta(seconds=70)
        held = advance(PLAN, at(2, 10), replace(blind, now=early)).position
        assert held.held_at == early
        late = advance(PLAN, held, replace(blind, now=NOW + timedelta(days=1)))
        assert not isinstance(late.stay, GiveUp)
        assert late.stay.reason in ("MetricsUnavailable", "Suspended")
        back = advance(PLAN, held, undecided)
        assert (back.position.held_at, back.position.held_seconds) == (None, 70)
        assert not isinstance(back.stay, GiveUp)
        again = advance(PLAN, back.position, replace(undecided, now=NOW + timedelta(seconds=61)))
        assert isinstance(again.stay, GiveUp)
        passed = advance(PLAN, back.position, replace(undecided, outcome="Pass", judged_step=2))
        assert passed.position.held_seconds == 0  # another step


def test_a_weight_that_was_lost_must_be_confirmed_again():
    move = advance(PLAN, at(2, 10), facts(in_force=False, **PASSED))
    assert move.position.in_force_at is None
    again = advance(PLAN, move.position, facts(**PASSED))
    assert again.position.in_force_at == NOW
    assert again.position.step == 2  # judged since the old confirmation


def test_a_pause_says_when_it_ends():
    assert advance(PLAN, at(3, 10, started=NOW), facts()).stay.until == NOW + timedelta(seconds=60)


def test_the_default_plan_judges_each_weight():
    spec = ModelDeploymentSpec.model_validate(make_modeldeployment(rollout=None)["spec"])
    plan = plan_of(spec)
    assert [s.set_weight for s in plan if s.set_weight is not None] == [1, 5, 10, 25, 50]
    assert all(s.analysis is not None for s in plan[1::2])


def test_while_nothing_is_seen_a_weight_that_is_lost_keeps_the_time_since_when_it_was_in_force():
    blind = advance(PLAN, at(7, 100), facts(in_force=False, outcome="Error"))
    assert blind.position.in_force_at == AGO, "what was sampled since then is yet to be judged"
    assert blind.stay is not None, "it has not arrived"
    assert advance(PLAN, at(7, 100), facts(in_force=False)).position.in_force_at is None
