"""What a route says about weights, and whether gateways have taken it."""

import copy

import pytest

from luthier.errors import Conflict
from luthier.plan import Traffic
from luthier.router import (
    SETTLE_SECONDS,
    UNCONFIRMED_SECONDS,
    HttpRouteRouter,
    route_in_force,
    route_weights,
)


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
    assert route_weights(route({"name": "r7"}, {"name": "r8", "weight": 0})) == {"r7": 100, "r8": 0}
    assert route_weights(route({"name": "r7"}, {"name": "r8", "weight": 3})) == {"r7": 25, "r8": 75}


@pytest.mark.parametrize("empty", [{"metadata": {}}, {"spec": {}}, {"spec": {"rules": []}}, route()])
def test_a_route_without_backends_has_no_weights(empty):
    assert route_weights(empty) == {}


def test_what_is_no_service_has_no_weight():
    assert route_weights(route({"name": "r7", "weight": 1}, {"name": "x", "kind": "Bucket", "weight": 5})) == {
        "r7": 100
    }


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


# Writing


class Cluster:
    """The API server, the store and the gateway of one route."""

    def __init__(self):
        self.live = None
        self.now = 100.0
        self.written = []
        self.router = HttpRouteRouter(self, self, clock=lambda: self.now)

    def find(self, resource, namespace, name):
        return self.live

    async def get(self, resource, namespace, name):
        return self.live

    async def create(self, manifest):
        self.live = copy.deepcopy(manifest)
        self.live["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "1"}
        self.written.append(route_weights(self.live))
        return self.live

    async def replace(self, manifest):
        if manifest["metadata"]["resourceVersion"] != self.live["metadata"]["resourceVersion"]:
            raise Conflict(409, "changed")
        generation = self.live["metadata"]["generation"] + 1
        self.live = {**copy.deepcopy(manifest), "status": self.live.get("status", {})}
        self.live["metadata"] |= {"uid": "u", "generation": generation, "resourceVersion": str(generation)}
        self.written.append([(b["name"], b["weight"]) for b in manifest["spec"]["rules"][0]["backendRefs"]])
        return self.live

    def wrote(self, obj):
        self.live = obj

    def confirm(self):
        self.live["status"] = {"parents": [report(generation=self.live["metadata"]["generation"])]}

    async def want(self, **weights):
        owner = [{"uid": "o", "controller": True, "kind": "ModelDeployment", "name": "support"}]
        manifest = route(*({"name": name, "weight": weight} for name, weight in weights.items()))
        manifest["metadata"] = {"name": "support", "namespace": "team", "ownerReferences": owner}
        version = self.live["metadata"]["resourceVersion"] if self.live else None
        del manifest["status"]
        return await self.router.write(Traffic(manifest=manifest, resource_version=version))


@pytest.fixture
async def cluster():
    cluster = Cluster()
    assert await cluster.want(r1=100) is None
    cluster.confirm()
    assert await cluster.want(r1=100) is None
    cluster.written.clear()
    return cluster


async def test_a_backend_gets_its_share_when_the_gateway_has_known_it_for_a_while(cluster):
    assert await cluster.want(r1=75, r2=25) == UNCONFIRMED_SECONDS
    assert cluster.written == [[("r1", 999_999), ("r2", 1)]]
    assert route_weights(cluster.live) == {"r1": 100, "r2": 0}
    cluster.now += 5
    assert await cluster.want(r1=75, r2=25) == UNCONFIRMED_SECONDS - 5
    cluster.confirm()
    assert await cluster.want(r1=75, r2=25) == SETTLE_SECONDS
    cluster.now += SETTLE_SECONDS / 2
    assert await cluster.want(r1=75, r2=25) == SETTLE_SECONDS / 2
    assert len(cluster.written) == 1
    cluster.now += SETTLE_SECONDS / 2
    assert await cluster.want(r1=75, r2=25) is None
    assert cluster.written[1:] == [[("r1", 75), ("r2", 25)]]


async def test_a_share_is_taken_at_once_and_its_backend_goes_when_the_gateway_has_taken_it(cluster):
    await cluster.want(r1=75, r2=25)
    cluster.now += UNCONFIRMED_SECONDS
    await cluster.want(r1=75, r2=25)
    cluster.written.clear()
    assert await cluster.want(r1=100) == UNCONFIRMED_SECONDS
    assert cluster.written == [[("r1", 999_999), ("r2", 1)]]
    cluster.confirm()
    await cluster.want(r1=100)
    cluster.now += SETTLE_SECONDS
    assert await cluster.want(r1=100) is None
    assert cluster.written[1:] == [[("r1", 100)]]
    assert await cluster.want(r1=100) is None
    assert len(cluster.written) == 2


async def test_a_gateway_that_confirms_nothing_is_not_waited_for_without_end(cluster):
    await cluster.want(r1=75, r2=25)
    cluster.now += UNCONFIRMED_SECONDS - 1
    assert await cluster.want(r1=75, r2=25) == 1
    cluster.now += 1
    assert await cluster.want(r1=75, r2=25) is None
    assert cluster.written[1:] == [[("r1", 75), ("r2", 25)]]


async def test_a_new_process_waits_once_more(cluster):
    await cluster.want(r1=75, r2=25)
    cluster.confirm()
    cluster.now += 100
    cluster.router = HttpRouteRouter(cluster, cluster, clock=lambda: cluster.now)
    assert await cluster.want(r1=75, r2=25) == SETTLE_SECONDS


async def test_a_route_that_changed_since_it_was_read_is_a_conflict(cluster):
    manifest = copy.deepcopy(cluster.live)
    manifest["spec"]["rules"][0]["backendRefs"] = [{"name": "r2", "weight": 100}]
    with pytest.raises(Conflict):
        await cluster.router.write(Traffic(manifest=manifest, resource_version="0"))
    with pytest.raises(Conflict, match="was absent"):
        await cluster.router.write(Traffic(manifest=manifest, resource_version=None))
