"""Conversations stay on a revision where the gateway can keep them there, and no weight grows where it cannot."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from luthier.backends import next_backends
from servingworld import Behaviour, World

STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"intervalSeconds": 2, "minSamples": 10, "metrics": [{"name": "ErrorRate"}]}
AFFINITY = {"header": "x-conversation-id", "requestsPerConversation": 5}


def serving(**changes: Any) -> World:
    """Return a world whose first revision serves, and which keeps conversations together."""
    world = World(rate=20, **changes)
    world.spec(rollout={"steps": STEPS, "analysis": ANALYSIS, "affinity": AFFINITY})
    world.settle()
    world.run(20)
    return world


def held(world: World) -> str:
    """Ask for another model, wait, and return why nothing moves."""
    world.successor()
    world.settle()
    world.run(20)
    assert world.weights() in ({"r1": 100}, {})
    return world.message("Ready")


def test_a_policy_of_the_route_hashes_the_header():
    world = serving()
    policy = world.child("BackendTrafficPolicy")
    assert policy is not None
    route = world.child("HTTPRoute")
    assert policy["spec"] == {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route["metadata"]["name"]}],
        "mergeType": "StrategicMerge",
        "loadBalancer": {
            "type": "ConsistentHash",
            "consistentHash": {"type": "Headers", "headers": [{"name": "x-conversation-id"}]},
        },
    }
    assert world.condition("Ready") == "True/Initial"


def test_a_policy_that_is_in_force_is_not_written_again():
    world = serving()
    writes = len(world.log)
    world.tick(times=3)
    assert len(world.log) == writes


def test_without_affinity_there_is_no_policy_and_one_that_was_there_goes():
    world = serving()
    world.spec(rollout={"affinity": None})
    world.settle()
    assert world.child("BackendTrafficPolicy") is None
    assert world.condition("Ready") == "True/Initial"


# Where it cannot be


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controller": "example.com/other"}, "Gateway gateway is run by example.com/other"),
        ({"knows_policies": False}, "install the CRDs of Envoy Gateway"),
        ({"knows_policies": False, "reads_forbidden": True}, "install the CRDs of Envoy Gateway"),
    ],
)
def test_a_gateway_that_cannot_is_refused_before_anything_starts(changes, said):
    world = World(rate=20, **changes)
    world.spec(rollout={"affinity": AFFINITY})
    world.settle()
    assert world.condition("Stalled") == "True/AffinityUnsupported"
    assert said in world.message("Stalled")
    assert "remove spec.rollout.affinity" in world.message("Stalled")
    assert world.children == {}
    world.spec(rollout={"affinity": None})
    world.settle()
    assert world.condition("Ready") == "True/Initial"


def test_who_may_not_read_gateways_goes_by_what_the_policy_says():
    world = serving(reads_forbidden=True, policy_refused="silent")
    assert "has not said yet" in held(world)
    world.policy_refused = None
    assert world.run(40, until=lambda: world.weights() == {"r1": 90, "r2": 10})


def test_a_gateway_that_is_not_there_yet_is_awaited():
    world = World(rate=20, controller="")
    world.spec(rollout={"affinity": AFFINITY})
    world.settle()
    assert world.condition("Ready") == "False/WaitingForGateway"
    assert "Gateway team/gateway does not exist" in world.message("Ready")


def test_affinity_asked_of_a_gateway_that_cannot_costs_the_stable_nothing():
    world = World(rate=20, controller="example.com/other")
    world.settle()
    world.spec(rollout={"steps": STEPS, "analysis": ANALYSIS, "affinity": AFFINITY})
    world.settle()
    assert world.condition("Serving") == "True/Serving"
    assert world.condition("Stalled") == "True/AffinityUnsupported"
    assert "run by example.com/other" in held(world)
    assert "candidate" not in world.status
    assert world.child("BackendTrafficPolicy") is None
    world.controller = "gateway.envoyproxy.io/gatewayclass-controller"
    assert world.run(40, until=lambda: world.weights() == {"r1": 90, "r2": 10})


@pytest.mark.parametrize(
    ("refused", "said"),
    [("silent", "has not said yet"), ("another policy is older", "another policy is older")],
)
def test_no_weight_grows_before_the_gateway_has_taken_the_policy(refused, said):
    world = serving(policy_refused=refused)
    assert said in held(world)
    assert world.condition("Ready") == "False/AffinityNotInForce"
    world.policy_refused = None
    assert world.run(40, until=lambda: world.weights() == {"r1": 90, "r2": 10})


def test_a_policy_of_another_header_is_not_the_one_that_is_in_force():
    world = serving()
    world.policy_refused = "silent"
    world.spec(rollout={"affinity": {"header": "x-session"}})
    world.settle()
    headers = world.child("BackendTrafficPolicy")["spec"]["loadBalancer"]["consistentHash"]["headers"]
    assert headers == [{"name": "x-session"}]
    assert "has not said yet" in held(world)


def test_a_policy_lost_in_mid_rollout_holds_the_weight_and_no_rollback():
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    world.policy_refused = "another policy is older"
    world.tick()
    world.run(120)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.condition("Ready") == "False/AffinityNotInForce"
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(300, until=lambda: world.weights() == {"r1": 100})
    assert world.condition("Stalled") == "True/RolledBack"


def test_no_way_back_waits_for_what_may_be_read_of_the_gateway(monkeypatch):
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    world.policy_refused = "another policy is older"
    world.tick()

    async def hang(*_):
        assert world.weights() == {"r1": 100}, "it was asked before the traffic was back"

    monkeypatch.setattr("luthier.deployment.observe.observe_affinity", hang)
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    assert world.run(60, until=lambda: world.weights() == {"r1": 100})


def test_a_rollout_keeps_the_affinity_that_it_began_with():
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    world.spec(rollout={"affinity": None})
    world.settle()
    assert world.child("BackendTrafficPolicy") is not None
    assert [event for event in world.events if event.reason == "PlanDrift"]
    assert world.run(300, until=lambda: world.condition("Ready") == "True/Promoted")
    world.settle()
    assert world.child("BackendTrafficPolicy") is None


# What it is worth


def test_a_conversation_is_one_sample():
    world = serving()
    world.successor()
    assert world.run(60, until=lambda: world.status.get("verdict", "").startswith("NotYet("))
    assert world.status["verdict"].endswith("/50)")


def chosen(backends: list[dict[str, Any]], conversation: int) -> str:
    """Return the Service that Envoy chooses by a hash: backends lie one after the other up to the sum of weights."""
    place = conversation % sum(backend["weight"] for backend in backends)
    for backend in backends:
        if place < backend["weight"]:
            return str(backend["name"])
        place -= backend["weight"]
    raise AssertionError("beyond the last backend")


def written(live: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the lists that the router writes, one after the other, until the route says what is wanted."""
    lists = [live]
    for settled in (False, True) * 5:
        following = next_backends(lists[-1], wanted, settled=settled)
        if following != lists[-1]:
            lists.append(following)
    return lists[1:]


def replay(world: World, live: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Let a rollout go to its end, and return every list that the gateway sees."""
    lists = [live]

    def is_over() -> bool:
        lists.extend(written(lists[-1], world.child("HTTPRoute")["spec"]["rules"][0]["backendRefs"]))
        return world.condition("Ready") == "True/Promoted" and "candidate" not in world.status

    assert world.run(600, until=is_over)
    return lists


def test_a_conversation_that_is_on_the_candidate_stays_there_at_every_weight():
    rng = random.Random(1)
    conversations = [rng.getrandbits(64) for _ in range(4000)]
    world = serving()
    live = world.child("HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    # The second rollout begins with the stable in another place than the first.
    for number, digest in ((2, "c"), (3, "d")):
        world.successor(f"sha256:{digest * 64}", f"tickets-{number}")
        world.tick()
        lists = replay(world, live)
        live = lists[-1]
        candidate = next(b["name"] for b in live if b["weight"])
        choices = [[chosen(backends, c) == candidate for c in conversations] for backends in lists]
        assert [round(100 * sum(c) / len(c)) for c in choices if 0 < sum(c) < len(c)] == pytest.approx([10, 50], abs=2)
        for before, after in itertools.pairwise(choices):
            assert all(new or not old for old, new in zip(before, after, strict=True)), "it left the candidate"
