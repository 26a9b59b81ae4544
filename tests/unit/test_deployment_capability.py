"""A gateway that says itself that it cannot is refused before the first weight, and by nothing less than its word."""

from __future__ import annotations

from typing import Any

import pytest

from servingworld import World

NEEDED = ["HTTPRoute", "HTTPRouteBackendRequestHeaderModification"]
STEPS = [{"setWeight": 10}, {"analysis": {}}]
ANALYSIS = {"intervalSeconds": 2, "minSamples": 10, "metrics": [{"name": "ErrorRate"}]}


def named(*features: str) -> list[Any]:
    return [{"name": feature} for feature in features]


def serving(steps: list[Any] = STEPS) -> World:
    world = World(rate=20)
    world.spec(rollout={"steps": steps, "analysis": ANALYSIS})
    world.settle()
    world.run(10)
    return world


@pytest.mark.parametrize("lacking", NEEDED)
def test_the_first_revision_is_not_made_for_a_gateway_that_cannot_route_it(lacking):
    world = World(features=named("Gateway", *(feature for feature in NEEDED if feature != lacking)))
    world.settle()
    assert world.condition("Stalled") == "True/GatewayUnsupported"
    assert world.children == {}
    for said in ("GatewayClass class of Gateway gateway", lacking, "name a Gateway of another class"):
        assert said in world.message("Stalled")
    world.features = named(*NEEDED)
    world.settle()
    assert world.condition("Ready") == "True/Initial"


def test_a_successor_is_refused_and_the_stable_serves_on():
    world = serving([{"abTest": {"headers": [{"name": "x-cohort", "value": "beta"}]}}])
    world.features = named("Gateway", "GRPCRoute")
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    world.successor()
    world.run(20)
    assert world.condition("Stalled") == "True/GatewayUnsupported"
    assert "an abTest's header" in world.message("Stalled")
    assert world.condition("Serving") == "True/Serving"
    assert world.weights() == {"r1": 100}
    assert "candidate" not in world.status


def test_a_candidate_that_waits_for_its_pods_gets_no_weight_of_a_gateway_that_cannot_any_more():
    world = serving()
    world.pods_become = "pending"
    world.successor()
    world.run(10)
    world.features = named("HTTPRoute")
    world.set_ready("r2", True)
    world.run(60)
    assert world.status["rollout"]["step"] == 0
    assert world.condition("Stalled") == "True/GatewayUnsupported"
    world.features = None
    assert world.run(60, until=lambda: world.weights() == {"r1": 90, "r2": 10})


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"features": []},
        {"features": named(*NEEDED, "Gateway")},
        {"features": NEEDED},
        {"features": named("Gateway"), "reads_forbidden": True},
        {"features": named("Gateway"), "controller": ""},
    ],
)
def test_nothing_else_is_refused(changes):
    world = World(**changes)
    world.settle()
    assert world.condition("Ready") == "True/Initial"


def test_a_rollout_that_has_begun_is_not_stopped_by_a_list():
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    world.features = named("Gateway")
    assert world.run(300, until=lambda: world.status["stable"]["name"].startswith("r2-"))
