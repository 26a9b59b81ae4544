"""After a rollback: when the last request was, and whether requests still arrive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from luthier.deployment.aftermath import read
from luthier.metrics import Metrics
from luthier.ports import Sample
from luthier.status import parse_time
from servingworld import World

WRITTEN = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def grows(*values: float, pod: str = "a", step: int = 10, start: int = -20) -> list[Sample]:
    """Return a counter's samples, one each `step` seconds, from `start` seconds after the weight was written."""
    began = WRITTEN.timestamp() + start
    return [Sample(labels={"pod": pod}, value=value, at=began + step * i) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("sentence", "samples", "last", "late"),
    [
        ("nothing is known without samples", [], None, 0),
        ("the last growth counts", grows(1, 5, 9, 9, 9, 9, 9, 9), 0, 0),
        ("a few more seconds are no fault", grows(1, 5, 9, 12, 12, 12, 12), 10, 0),
        ("a growth across the 30 s may have been before", grows(1, 1, 1, 1, 1, 4), 30, 0),
        ("what begins after them is late", grows(1, 1, 1, 1, 1, 1, 4, 6), 50, 5),
        ("a restart counts from 0", grows(9, 9, 9, 9, 9, 9, 2), 40, 2),
        ("pods are told apart", [*grows(9, 9, 9), *grows(1, 1, 3, pod="b")], 0, 0),
    ],
)
def test_the_last_request_and_the_late_ones(sentence, samples, last, late):
    found = read(samples, WRITTEN)
    assert found.last_at == (None if last is None else WRITTEN + timedelta(seconds=last)), sentence
    assert found.late == late


def rolled_back(*, error: str | None = None) -> World:
    """Return a world whose second revision has just been taken back."""
    world = World(rate=20)
    world.spec(rollout={"steps": [{"setWeight": 50}, {"pause": {}}], "analysis": ANALYSIS})
    world.settle()
    world.run(20)
    world.successor()
    assert world.run(100, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    world.run(20)
    world.prometheus_error = error
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.settle()
    assert world.weights() == {"r1": 100}
    return world


def entry(world: World) -> dict:
    return world.status["history"][0]


def late_events(world: World) -> list:
    return [e for e in world.events if e.reason == "RollbackNotEffective"]


def test_a_rollback_shows_when_the_last_request_to_the_candidate_was():
    world = rolled_back()
    world.run(200)
    written, last = parse_time(entry(world)["weightWrittenAt"]), parse_time(entry(world)["lastCandidateRequestAt"])
    assert abs((last - written).total_seconds()) <= 4
    assert entry(world).get("lateRequests", 0) == 0
    assert late_events(world) == []
    before = world.status_writes
    world.run(60)
    assert world.status_writes == before


def test_requests_that_still_arrive_are_told_once_and_counted_as_long_as_they_come():
    world = rolled_back()
    pod = next(name for name in world.pods if "-r2-" in name)
    for _ in range(50):
        world._request(pod)  # a gateway that does not follow the route
        world.run(2)
    assert entry(world)["lateRequests"] >= 20
    assert (parse_time(entry(world)["lastCandidateRequestAt"]) - world.now).total_seconds() > -20
    [event] = late_events(world)
    assert event.type == "Warning"
    assert entry(world)["revision"] in event.message


def test_without_prometheus_nothing_is_known_and_nothing_fails():
    world = rolled_back(error="down")
    world.run(60)
    assert "lastCandidateRequestAt" not in entry(world)
    world.prometheus_error = None
    world.run(30)
    assert "lastCandidateRequestAt" in entry(world)


def test_it_is_looked_at_again_for_two_minutes_and_then_no_more():
    world = rolled_back()
    assert world.tick().requeue_after == 15
    world.rate = 0
    world.run(150)
    after = world.tick().requeue_after
    assert after is None or after > 15


def test_the_next_candidate_does_not_hide_what_reaches_the_one_before():
    world = rolled_back()
    world.successor("sha256:" + "d" * 64, "tickets-3")
    pod = next(name for name in world.pods if "-r2-" in name)
    for _ in range(25):
        world._request(pod)
        world.run(2)
    assert world.status["candidate"]["name"].startswith("r3-")
    assert late_events(world)


def test_the_metric_is_0_from_the_rollback_on_and_then_counts():
    metrics = Metrics()

    def shown(**changes) -> str:
        newest = {"revision": "r2-aaaaaaaa", "outcome": "RolledBack", **changes}
        meta = {"namespace": "team", "name": "support"}
        obj = {"kind": "ModelDeployment", "metadata": meta, "status": {"history": [newest]}}
        metrics.show([json.loads(json.dumps(obj))])
        return generate_latest(metrics.registry).decode()

    name = 'luthier_rollback_late_requests{name="support",namespace="team",revision="r2-aaaaaaaa"}'
    assert name not in shown()
    assert f"{name} 0.0" in shown(weightWrittenAt="2026-01-01T12:00:00Z")
    assert f"{name} 7.0" in shown(weightWrittenAt="2026-01-01T12:00:00Z", lateRequests=7)
    metrics.show([])
    assert name not in generate_latest(metrics.registry).decode()
