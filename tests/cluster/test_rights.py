"""What the operator may not do, or cannot have, while it runs, and what needs no operator at all."""

from __future__ import annotations

import socket
import time

import pytest

from factories import make_finetunejob
from faults.hands import all_children
from faults.lives import begin_first, first_serves, job_status
from faults.rules import Rule
from faults.world import World, open_world
from jobstage import Namespace
from jobworld import message_of, summary
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.row(22)
def test_a_right_that_is_taken_away_is_told_and_holds_up_nobody_else(world: World):
    world.proxy.arm(Rule(act="status", method="POST", path=".*/jobs", status=403, times=0))
    world.place.make("finetunejobs", make_finetunejob())
    until(lambda: job_status(world) and summary(job_status(world)) == ("Unknown", "Refused"), "it is told")
    assert "the API server refuses a write" in message_of(job_status(world))
    told = lambda: [e for e in world.stage.list("events") if e["reason"] == "Refused"]  # noqa: E731
    [event] = until(told, "an event tells it too")
    assert event["type"] == "Warning"
    began, tried = time.monotonic(), refused(world)
    begin_first(world)
    until(lambda: first_serves(world), "another kind goes on")
    assert refused(world) - tried <= 2 + (time.monotonic() - began) / 2, "it is tried slowly"
    world.proxy.disarm()
    until(lambda: "tickets-data-1" in world.place.job_names(), "the right is back", seconds=90)
    assert world.operator.starts == 1


def refused(world: World) -> int:
    return sum("403" in line and "pass ended early" in line for line in world.log().splitlines())


@pytest.mark.row(12)
def test_a_probe_port_that_is_taken_ends_the_process_instead_of_leaving_it_unwatched(api, routes, namespace, tmp_path):
    with (
        socket.socket() as taken,
        open_world(api, f"{namespace}-port", tmp_path, health_port=listening(taken)) as world,
    ):
        world.operator.start()
        until(lambda: not world.operator.is_alive(), "it ends")
        assert "address already in use" in world.log()
        taken.close()
        world.operator.start()
        world.place.make("finetunejobs", make_finetunejob())
        until(lambda: "tickets-data-1" in world.place.job_names(), "started again, it works")


def listening(taken: socket.socket) -> int:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return int(taken.getsockname()[1])


@pytest.mark.row(40, 41)
def test_without_any_operator_deleted_objects_go_with_all_that_was_theirs(world: World):
    world.place.make("finetunejobs", make_finetunejob())
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    world.place.job("tickets-data-1")
    world.operator.kill()
    for plural, name in (("modeldeployments", "support"), ("finetunejobs", "tickets")):
        assert "finalizers" not in world.place.get(plural, name)["metadata"]
        world.place.delete(plural, name)
        until(lambda plural=plural, name=name: world.place.get(plural, name) is None, "the object is gone", seconds=10)
    until(lambda: not all_children(world) and not world.place.list("jobs"), "so are its children")


LIMIT = 256 << 10
"""Bytes that the API server takes in all annotations of an object."""


@pytest.mark.row(24)
@pytest.mark.parametrize(
    ("bytes_", "says"), [(LIMIT, "may not be more than 262144 bytes"), (4 << 20, "Request entity too large")]
)
def test_an_object_that_is_too_large_is_refused_with_the_limit(api, namespace, bytes_, says):
    obj = make_finetunejob()
    obj["metadata"] = {"name": "tickets", "annotations": {"note": "x" * bytes_}}
    reply = api.post(Namespace(api, namespace).url("finetunejobs"), json=obj)
    assert reply.status_code in (413, 422)
    assert says in reply.text
