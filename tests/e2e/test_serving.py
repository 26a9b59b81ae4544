"""No request of a client fails because traffic moves, because a pod goes, or because a revision is given up.

Real operator, Envoy Gateway, Prometheus and middleware on a real node; the engine is the stand-in, so that revisions
start in seconds and stream as slowly as told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from servingnode.traffic import Traffic, share, traffic
from servingnode.world import ServingNode
from standin.model import Behaviour
from waiting import until

pytestmark = [pytest.mark.node, pytest.mark.images, pytest.mark.slow]
MODELS = {
    "v1": Behaviour(),
    "v2": Behaviour(answer='{"label": "two"}'),
    "failing": Behaviour(error_rate=0.5),
    "talkative": Behaviour(invalid_rate=0.3),
    "slow": Behaviour(latency_seconds=0.5),
}
SCHEMA = '{"type": "object", "required": ["label"]}'
SLOW_STREAM = {"answer": " ".join(["word"] * 20), "chunk_seconds": 0.15}
"""Three seconds: a stream lives through several changes of weight."""
LONG_STREAM = {"answer": " ".join(["word"] * 20), "chunk_seconds": 1.25}
"""Longer than pods commonly get to stop in."""
ANALYSIS = {"intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def rollout(*steps: dict, **options) -> dict:
    return {
        "steps": list(steps),
        "analysis": ANALYSIS,
        "abortScaleDownDelaySeconds": 0,
        "watchAfterPromotionSeconds": 0,
        **options,
    }


@pytest.fixture
def world(serving_node, request) -> Iterator[ServingNode]:
    """A namespace of its own in which the first model serves with five pods: a quarter of the traffic needs two."""
    env, image = serving_node
    world = ServingNode(env=env, namespace=f"serving-{abs(hash(request.node.name)) % 10**6}", image=image)
    world.prepare(MODELS)
    try:
        world.deploy("v1", replicas=5, responseSchema=SCHEMA)
        until(lambda: world.has_ended(1, "Promoted"), "the first revision serves", seconds=180)
        until(lambda: answers(world), "the gateway answers")
        yield world
    finally:
        world.clear()


def answers(world: ServingNode) -> bool:
    with traffic(world.address(), rate=5) as clients:
        until(lambda: len(clients.done) >= 3, "three requests have ended")
    return not clients.failed()


def within_binomial_bound(clients: Traffic, since: float, percent: int) -> bool:
    """Say whether the realised split is the weight, within four standard deviations."""
    mine, all_of_them = share(clients.since(since), "r2")
    expected = all_of_them * percent / 100
    return abs(mine - expected) <= 4 * math.sqrt(expected * (1 - percent / 100)) + 1


def test_every_request_and_every_stream_is_whole_through_a_rollout(world: ServingNode):
    steps = [{"setWeight": w} for w in (1, 5, 25, 50, 75, 99)]
    paused = [step for weight in steps for step in (weight, {"pause": {"durationSeconds": 2}})]
    with traffic(world.address(), rate=25, streams=0.4, behaviour=SLOW_STREAM) as clients:
        world.deploy("v2", rollout=rollout(*paused))
        until(lambda: world.has_ended(2, "Promoted"), "the second revision serves", seconds=240)
        until(lambda: not world.pods(first(world)), "the old pods are gone", seconds=120)
    assert clients.failed() == {}, clients.complaints()
    assert sum(r.streamed for r in clients.done) > 100
    assert {r.revision for r in clients.done if r.streamed} == {"r1", "r2"}


def first(world: ServingNode) -> str:
    return next(entry["revision"] for entry in world.status()["history"] if entry["revision"].startswith("r1-"))


def test_pods_of_both_sides_that_are_deleted_at_a_quarter_cost_no_request(world: ServingNode):
    url = world.address()
    long = traffic(url, rate=2, streams=1.0, behaviour=LONG_STREAM)
    with traffic(url, rate=40, streams=0.2, behaviour=SLOW_STREAM) as clients, long as listeners:
        world.deploy("v2", rollout=rollout({"setWeight": 25}, {"pause": {}}))
        until(lambda: world.weight() == 25, "a quarter", seconds=180)
        confirmed = time.monotonic()
        until(lambda: len(clients.since(confirmed)) > 400, "400 requests")
        assert within_binomial_bound(clients, confirmed, 25)
        for revision, pods in ((world.status()["candidate"]["name"], 2), (first(world), 5)):
            gone = world.pods(revision)[0]["metadata"]["name"]
            world.kubectl("delete", "pod", gone, "--wait=false")
            until(lambda gone=gone: not world.get("pod", gone), f"{gone} is gone", seconds=120)
            until(lambda r=revision, n=pods: ready(world, r) == n, "another pod is ready", seconds=120)
        whole = time.monotonic()
        until(lambda: len(clients.since(whole)) > 400, "400 requests")
        assert within_binomial_bound(clients, whole, 25)
    assert clients.failed() == {}, clients.complaints()
    assert listeners.failed() == {}, listeners.complaints()


def ready(world: ServingNode, revision: str) -> int:
    conditions = [c for pod in world.pods(revision) for c in pod["status"].get("conditions", [])]
    return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def test_an_unfit_revision_is_taken_back_by_each_signal(world: ServingNode):
    """By errors, by the form of its answers, by its latency: each one alone, with no other to help."""
    signals = {"failing": "ErrorRate", "talkative": "FormatValidity", "slow": "Latency"}
    with traffic(world.address(), rate=25) as clients:
        for number, (model, signal) in enumerate(signals.items(), start=2):
            judged_by = {**ANALYSIS, "metrics": [{"name": signal}]}
            world.deploy(model, rollout=rollout({"setWeight": 50}, {"analysis": {}}, analysis=judged_by))
            until(lambda n=number: world.has_ended(n, "RolledBack"), f"{model} is taken back", seconds=240)
            back = time.monotonic()
            (metric,) = world.status()["history"][0]["metrics"]
            assert (metric["name"], metric["outcome"]) == (signal, "Fail")
            until(lambda since=back: len(clients.since(since)) > 100, "100 requests")
            assert {r.revision for r in clients.since(back + 2)} == {"r1"}
    assert set(clients.failed()) == {"r2 500"}
