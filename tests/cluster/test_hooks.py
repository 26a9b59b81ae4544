"""Whom a rollout asks and tells, on a real API server: signed calls over TLS to a receiver on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from apiserver import Client
from faults.lives.deployment import break_it
from faults.lives.held import HEARD
from faults.lives.serving import begin_first, first_serves
from faults.world import World, open_world
from hookreceiver import HANG, Heard
from luthier.hooks import SECONDS
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STEPS = [{"setWeight": 25}, {"pause": {}}]


@pytest.fixture
def told(api: Client, routes: None, namespace: str, tmp_path: Path) -> Iterator[World]:
    """Yield a world whose first revision serves, with a receiver of each type."""
    with open_world(api, f"{namespace}-h", tmp_path, has_hooks=True) as world:
        world.operator.start()
        begin_first(world)
        until(lambda: first_serves(world), "the first revision serves", seconds=90)
        hooks = [{"name": type_.lower(), "type": type_, "url": world.hooks.url(type_.lower())} for type_ in HEARD]
        world.stage.change(rollout={"steps": STEPS, "hooks": hooks})
        yield world
        world.operator.kill()
        assert "Traceback" not in world.log()


def questions(world: World) -> list[Heard]:
    return [one for one in tuple(world.hooks.heard) if one.body["type"] == "Confirm"]


def message(world: World) -> str:
    return next((c["message"] for c in world.stage.status()["conditions"] if c["type"] == "Ready"), "")


def test_a_weight_waits_for_a_yes_and_who_was_killed_asks_the_same_question_again(told: World):
    told.hooks.answer = lambda body: 409 if body["type"] == "Confirm" else 204
    told.stage.successor()
    until(lambda: "confirm does not agree: HTTP 409" in message(told), "the no is told", seconds=60)
    assert told.stage.condition("Ready") == "False/WaitingForConfirmation"
    assert told.stage.weights() == {"r1": 100}
    asked = len(questions(told))
    told.operator.stop()
    told.operator.start()
    until(lambda: len(questions(told)) > asked, "the next process asks", seconds=60)
    told.hooks.answer = lambda body: 204
    until(lambda: told.stage.weights() == {"r1": 75, "r2": 25}, "a yes is taken at its next try", seconds=60)
    first = questions(told)
    assert len({one.id for one in first}) == 1
    assert [(c.about["step"], c.about["weight"], c.about["nextWeight"]) for c in first[:1]] == [(1, 0, 25)]
    assert all(one.is_signed and one.about == first[0].about for one in first)
    with_weight = until(lambda: events(told).get("WeightChanged"), "the new weight is told", seconds=30)
    assert "gets 25 % of the traffic" in with_weight.body["message"]


def events(world: World) -> dict[str, Heard]:
    return {one.body["event"]: one for one in world.hooks.taken("Event").values()}


def test_what_happened_is_told_by_the_next_process_when_nobody_took_it_from_this_one(told: World):
    told.hooks.answer = lambda body: 204 if body["type"] == "Confirm" else 503
    told.stage.successor()
    until(lambda: told.stage.condition("Ready") == "False/WaitingForApproval", "the pause", seconds=90)
    refused = {one.id: one.about for one in tuple(told.hooks.heard) if one.body["type"] == "Event"}
    assert {about["event"] for about in refused.values()} >= {"RollingOut", "WeightChanged"}
    told.operator.stop()
    told.hooks.answer = lambda body: 204
    told.operator.start()
    until(lambda: not told.stage.status().get("notices"), "all was taken", seconds=60)
    taken = {id_: one.about for id_, one in told.hooks.taken("Event").items()}
    assert refused.items() <= taken.items(), "by the ids of the first tries"


def test_receivers_that_hang_do_not_delay_a_rollback(told: World):
    told.stage.successor()
    until(lambda: told.stage.condition("Ready") == "False/WaitingForApproval", "the pause", seconds=90)
    told.hooks.answer = lambda body: HANG
    break_it(told)
    until(lambda: told.stage.condition("Ready") == "False/RolledBack", "it is taken back", seconds=60)
    assert told.stage.weights() == {"r1": 100}
    entry = told.stage.status()["history"][0]
    took = seconds(entry, "weightWrittenAt") - seconds(entry, "breachSeenAt")
    assert took < SECONDS, f"{took:.0f} s from the breach to the weight: a call was waited for"
    until(lambda: any(one.body["type"] == "Rollback" for one in tuple(told.hooks.heard)), "it is told", seconds=30)
    assert not told.hooks.taken("Rollback")
    told.hooks.answer = lambda body: 204
    until(lambda: told.hooks.taken("Rollback"), "and told again until somebody takes it", seconds=60)
    [one] = told.hooks.taken("Rollback").values()
    assert one.body["event"] == "RolledBack"


def seconds(entry: dict[str, Any], at: str) -> float:
    return datetime.fromisoformat(entry[at]).timestamp()
