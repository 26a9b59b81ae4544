"""What a route says about weights, and whether gateways have taken it."""

import pytest

from luthier.router import route_in_force, route_weights


def route(*backends, parents=({"name": "gw"},), reported=(), generation=4):
    return {
        "metadata": {"namespace": "team", "name": "support", "generation": generation},
        "spec": {"parentRefs": list(parents), "rules": [{"backendRefs": list(backends)}]},
        "status": {"parents": list(reported)},
    }


def report(parent=None, *, generation=4, **conditions):
    conditions = {"Accepted": "True", "ResolvedRefs": "True"} | conditions
    return {
        "parentRef": parent or {"name": "gw", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
        "conditions": [
            {"type": name, "status": value, "observedGeneration": generation} for name, value in conditions.items()
        ],
    }


def test_weights_by_service():
    assert route_weights(route({"name": "r7", "weight": 90}, {"name": "r8", "weight": 10})) == {"r7": 90, "r8": 10}


def test_a_missing_weight_is_one_and_zero_is_zero():
    assert route_weights(route({"name": "r7"}, {"name": "r8", "weight": 0})) == {"r7": 1, "r8": 0}


@pytest.mark.parametrize("empty", [{"metadata": {}}, {"spec": {}}, {"spec": {"rules": []}}, route()])
def test_a_route_without_backends_has_no_weights(empty):
    assert route_weights(empty) == {}


def test_what_is_no_service_has_no_weight():
    assert route_weights(route({"name": "r7", "weight": 1}, {"name": "x", "kind": "Bucket", "weight": 5})) == {"r7": 1}


def test_in_force_when_the_gateway_accepted_this_generation():
    assert route_in_force(route(reported=[report()]))


@pytest.mark.parametrize(
    "reported",
    [
        [],
        [report(generation=3)],
        [report(Accepted="False")],
        [report(ResolvedRefs="False")],
        [report(Programmed="False")],
        [report({"name": "another"})],
        [report({"name": "gw", "namespace": "infra"})],
        [{"parentRef": {"name": "gw"}}],
    ],
)
@pytest.mark.row(57)
def test_not_in_force(reported):
    assert not route_in_force(route(reported=reported))


@pytest.mark.row(57)
def test_every_gateway_has_to_accept():
    parents = [{"name": "gw"}, {"name": "gw2", "namespace": "infra"}]
    one, two = report({"name": "gw"}), report({"name": "gw2", "namespace": "infra"})
    assert not route_in_force(route(parents=parents, reported=[one]))
    assert route_in_force(route(parents=parents, reported=[one, two]))


def test_a_route_without_parents_serves_nobody():
    assert not route_in_force(route(parents=(), reported=[report()]))
