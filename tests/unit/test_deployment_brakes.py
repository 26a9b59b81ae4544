"""What holds rollouts and lets rollbacks through: freeze, windows, suspend."""

from __future__ import annotations

from datetime import timedelta

import pytest

from luthier.errors import Unreachable
from luthier.freeze import FreezeSwitch
from luthier.resources import CONFIGMAP
from servinglife import entry, serving
from servingworld import Behaviour, World

SHUT = [{"schedule": "0 3 * * *", "durationSeconds": 3600}]  # the world's clock begins at noon
OPEN = [{"schedule": "0 12 * * *", "durationSeconds": 3600}]


def frozen(world: World) -> None:
    world.freeze = "ConfigMap luthier-system/luthier-freeze exists: launch day"


def shut(world: World) -> None:
    world.spec(rollout={"windows": SHUT})


def suspended(world: World) -> None:
    world.spec(suspend=True)


BRAKES = pytest.mark.parametrize(
    ("brake", "reason"), [(frozen, "Frozen"), (shut, "OutsideWindow"), (suspended, "Suspended")]
)


def release(world: World) -> None:
    world.freeze = None
    world.spec(suspend=False, rollout={"windows": OPEN})


@BRAKES
def test_no_rollout_starts_and_it_starts_afterwards(brake, reason):
    world = serving()
    brake(world)
    world.successor()
    world.run(60)
    assert "candidate" not in world.status
    assert world.condition("Ready") == f"False/{reason}"
    release(world)
    world.tick()
    assert world.status["candidate"]["name"].startswith("r2-")


@BRAKES
def test_no_weight_grows_and_rollback_works(brake, reason):
    world = serving(analysis={"maxStepSeconds": 30, "onInconclusive": "Rollback"})
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2") == 10)
    brake(world)
    world.run(300)  # longer than maxStepSeconds: time on the brake does not count
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.condition("Ready") == f"False/{reason}"
    assert "step 2 of 5, 10 %: held; " in world.message("Ready")
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "AnalysisFailed"


@BRAKES
def test_nobody_overrides_a_brake_and_an_abort_passes_it(brake, reason):
    world = serving()
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2") == 10)
    brake(world)
    name = world.status["candidate"]["name"]
    act = {"revision": name, "skipAnalysis": True, "by": "alice", "reason": "now"}
    world.spec(rollout={"promote": act})
    world.run(60)
    assert world.weights() == {"r1": 90, "r2": 10}
    world.spec(rollout={"abort": {"revision": name}})
    world.tick()
    assert world.weights() == {"r1": 100}


@pytest.mark.parametrize("brake", [frozen, shut, suspended])
def test_a_pin_to_an_older_revision_is_a_rollback_and_passes(brake):
    world = serving()
    first = world.status["stable"]["name"]
    world.successor()
    assert world.run(600, until=lambda: world.status["stable"]["name"].startswith("r2-"))
    brake(world)
    world.spec(rollout={"pin": {"revision": first}})
    world.settle()
    assert world.weights() == {"r1": 100}


@BRAKES
def test_the_first_revision_waits_too(brake, reason):
    world = World()
    brake(world)
    world.settle()
    assert world.children == {}
    assert world.condition("Ready") == f"False/{reason}"


def test_a_freeze_is_shown_by_every_object_and_a_settled_one_stays_ready():
    world = serving()
    frozen(world)
    world.settle()
    assert world.condition("Held") == "True/Frozen"
    assert "launch day" in world.message("Held")
    assert world.condition("Ready") == "True/Initial"
    world.freeze = None
    world.settle()
    assert world.condition("Held") is None


def test_a_freeze_is_told_once_and_the_deadline_of_pods_rests():
    world = serving()
    world.pods_become = "pending"
    world.spec(progressDeadlineSeconds=30)
    world.successor()
    world.tick()
    frozen(world)
    world.run(120)
    assert world.condition("Ready") == "False/Frozen"
    assert len([e for e in world.events if e.reason == "Frozen"]) == 1
    world.freeze = None
    world.tick()
    assert entry(world)["reason"] == "CandidateNotReady"


def test_the_next_pass_comes_when_the_window_opens():
    world = serving()
    shut(world)
    world.successor()
    plan = world.settle()
    assert plan.requeue_after == (timedelta(hours=15) - timedelta(seconds=20)).total_seconds()
    assert "the next one opens 2026-01-02T03:00:00Z" in world.message("Ready")
    world.now += timedelta(seconds=plan.requeue_after)
    world.tick()
    assert world.status["candidate"]["name"].startswith("r2-")


def test_a_settled_object_has_nothing_to_do_with_windows():
    world = serving()
    shut(world)
    plan = world.settle()
    assert world.condition("Ready") == "True/Initial"
    assert plan.requeue_after is None


def test_a_window_that_cannot_be_read_is_stalled_and_rollback_works():
    world = serving()
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2") == 10)
    world.spec(rollout={"windows": [{**SHUT[0], "timeZone": "Europe/Munich"}]})
    world.run(30)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.condition("Stalled") == "True/InvalidSpec"
    assert 'spec.rollout.windows[0].timeZone is "Europe/Munich"' in world.message("Stalled")
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}
    world.settle()
    assert world.condition("Stalled") == "True/InvalidSpec"
    assert world.condition("Serving") == "True/Serving"


# The switch


class Server:
    def __init__(self, answer):
        self.answer = answer

    async def get(self, resource, namespace, name):
        assert (resource, namespace, name) == (CONFIGMAP, "luthier-system", "luthier-freeze")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def switch(server: Server, told: list, always: str = "") -> FreezeSwitch:
    return FreezeSwitch(
        server,  # type: ignore[arg-type]
        namespace="luthier-system",
        name="luthier-freeze",
        always=always,
        changed=lambda: told.append(1),
    )


async def test_the_switch_is_the_existence_of_the_config_map():
    told: list[int] = []
    server = Server(None)
    made = switch(server, told)
    assert "could not be read yet" in made.reason()
    await made.look()
    assert (made.reason(), len(told)) == (None, 1)
    await made.look()
    assert len(told) == 1
    server.answer = {"data": {"reason": " launch day "}}
    await made.look()
    assert made.reason() == "ConfigMap luthier-system/luthier-freeze exists: launch day"
    server.answer = {}
    await made.look()
    assert made.reason() == "ConfigMap luthier-system/luthier-freeze exists"
    assert len(told) == 3


@pytest.mark.parametrize("before", [None, {"data": {"reason": "launch day"}}])
async def test_a_switch_that_cannot_be_read_stays_as_it_was(before):
    server = Server(before)
    made = switch(server, [])
    await made.look()
    was = made.reason()
    server.answer = Unreachable("no answer")
    await made.look()
    assert made.reason() == was


async def test_the_setting_freezes_whatever_the_switch_says():
    made = switch(Server(None), [], always="migration")
    await made.look()
    assert made.reason() == "migration"


@BRAKES
def test_pods_that_come_back_in_a_step_get_no_traffic_until_the_brake_is_off(brake, reason):
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.weights().get("r2") == 10)
    world.set_ready("r2", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    brake(world)
    world.run(4)
    assert world.condition("Ready") == "False/NoReadyPods"
    world.set_ready("r2", True)
    world.run(60)
    assert world.weights() == {"r1": 100}
    assert world.condition("Ready") == f"False/{reason}"
    assert "its traffic is on the stable" in world.message("Ready")
    release(world)
    assert world.run(20, until=lambda: world.weights().get("r2") == 10), world.message("Ready")


@BRAKES
def test_in_place_the_weight_does_not_follow_more_pods_on_a_brake(brake, reason):
    world = serving(capacity="InPlace", steps=[{"setWeight": 80}, {"pause": {}}])
    world.spec(replicas=5)
    world.run(10)
    world.successor()
    assert world.run(60, until=lambda: 0 < world.weights().get("r2", 0) < 80)
    carried = world.weights()
    brake(world)
    world.run(60)
    assert world.weights() == carried
    assert world.condition("Ready") == f"False/{reason}"
    assert f"80 %: held; {'outside' if reason == 'OutsideWindow' else ''}" in world.message("Ready")
    assert f"it has {carried['r2']} % until then" in world.message("Ready")
    release(world)
    assert world.run(60, until=lambda: world.weights().get("r2") == 80), world.message("Ready")
