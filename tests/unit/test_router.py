"""What a route says about weights, and whether gateways have taken it."""

import copy

import pytest

from luthier.errors import Conflict
from luthier.headerrule import open_rule
from luthier.plan import Traffic
from luthier.router import (
    SETTLE_SECONDS,
    UNCONFIRMED_SECONDS,
    HttpRouteRouter,
    route_in_force,
    route_weights,
)
from routercontract import PlayedGateway, RouterContract, arrive, rounded


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

OWNER = [{"uid": "o", "controller": True, "kind": "ModelDeployment", "name": "support"}]


class OneRoute(PlayedGateway):
    """The API server, the store and the gateway of one HTTPRoute; proxies have a list when they confirm it."""

    def __init__(self):
        self.live = None
        self.now = 100.0
        self.written = []
        self.proxies = []
        self.cohort_proxies = []
        self.restart()

    # what the router writes to

    def find(self, resource, namespace, name):
        return self.live

    async def get(self, resource, namespace, name):
        return self.live

    async def create(self, manifest):
        return self._store(manifest, generation=1)

    async def replace(self, manifest):
        if manifest["metadata"]["resourceVersion"] != self.live["metadata"]["resourceVersion"]:
            raise Conflict(409, "changed")
        return self._store(manifest, generation=self.live["metadata"]["generation"] + 1)

    def wrote(self, obj):
        self.live = obj

    def _store(self, manifest, *, generation):
        self.live = {**copy.deepcopy(manifest), "status": (self.live or {}).get("status", {})}
        self.live["metadata"] |= {"uid": "u", "generation": generation, "resourceVersion": str(generation)}
        self.written.append([(b["name"], b["weight"]) for b in manifest["spec"]["rules"][0]["backendRefs"]])
        return self.live

    # the contract's part

    def traffic(self, weights, cohort=None):
        manifest = route(*({"name": name, "weight": weight} for name, weight in weights.items()))
        if cohort is not None:
            value, service = cohort
            matches = [{"headers": [{"type": "Exact", "name": "x-test", "value": value}]}]
            manifest["spec"]["rules"].append({"matches": matches, "backendRefs": [{"name": service, "weight": 100}]})
        manifest |= {"kind": "HTTPRoute"}
        manifest["metadata"] = {"name": "support", "namespace": "team", "ownerReferences": OWNER}
        del manifest["status"]
        version = self.live["metadata"]["resourceVersion"] if self.live else None
        return Traffic(manifest=manifest, resource_version=version)

    async def write(self, traffic):
        return await self.router.write(traffic)

    def shares(self):
        backends = self.live["spec"]["rules"][0]["backendRefs"]
        total = sum(b["weight"] for b in backends)
        found = {}
        for backend in backends:
            found[backend["name"]] = found.get(backend["name"], 0) + backend["weight"] / total
        return found

    def by_header(self, value):
        found = open_rule(self.live)
        return found.service if found is not None and found.headers == (("x-test", value),) else None

    def known(self):
        return frozenset(b["name"] for b in self.proxies if b["weight"])

    def known_by_header(self):
        return frozenset(b["name"] for b in self.cohort_proxies)

    def has_header_rule(self):
        return len(self.live["spec"]["rules"]) > 1

    def confirm(self):
        self.proxies = self.live["spec"]["rules"][0]["backendRefs"]
        self.cohort_proxies = [b for rule in self.live["spec"]["rules"][1:] for b in rule["backendRefs"]]
        self.live["status"] = {"parents": [report(generation=self.live["metadata"]["generation"])]}

    def wait(self, seconds):
        self.now += seconds

    def restart(self):
        self.router = HttpRouteRouter(self, self, clock=lambda: self.now)

    def edit(self, weights):
        by_hand = copy.deepcopy(self.live)
        by_hand["spec"]["rules"][0]["backendRefs"] = [{"name": n, "weight": w} for n, w in weights.items()]
        self._store(by_hand, generation=self.live["metadata"]["generation"] + 1)
        self.written.pop()
        self.confirm()

    def take_name(self, owner):
        self.live = self.traffic({"x": 100}).manifest
        self.live["metadata"] |= {"ownerReferences": [owner], "uid": "x", "resourceVersion": "1", "generation": 1}

    @property
    def writes(self):
        return len(self.written)


class TestHttpRoute(RouterContract):
    @pytest.fixture
    def gateway(self):
        return OneRoute()


@pytest.fixture
async def serving():
    gateway = OneRoute()
    await arrive(gateway, {"r1": 100})
    gateway.written.clear()
    return gateway


async def test_a_backend_gets_its_share_when_the_gateway_has_known_it_for_a_while(serving):
    wish = {"r1": 75, "r2": 25}
    assert await serving.write(serving.traffic(wish)) == UNCONFIRMED_SECONDS
    assert serving.written == [[("r1", 999_999), ("r2", 1)]]
    assert route_weights(serving.live) == {"r1": 100, "r2": 0}
    serving.wait(5)
    assert await serving.write(serving.traffic(wish)) == UNCONFIRMED_SECONDS - 5
    serving.confirm()
    assert await serving.write(serving.traffic(wish)) == SETTLE_SECONDS
    serving.wait(SETTLE_SECONDS / 2)
    assert await serving.write(serving.traffic(wish)) == SETTLE_SECONDS / 2
    assert len(serving.written) == 1
    serving.wait(SETTLE_SECONDS / 2)
    assert await serving.write(serving.traffic(wish)) is None
    assert serving.written[1:] == [[("r1", 75), ("r2", 25)]]


async def test_a_backend_goes_when_the_gateway_has_taken_its_share(serving):
    await arrive(serving, {"r1": 75, "r2": 25})
    serving.written.clear()
    assert await serving.write(serving.traffic({"r1": 100})) == UNCONFIRMED_SECONDS
    assert serving.written == [[("r1", 999_999), ("r2", 1)]]
    serving.confirm()
    assert await serving.write(serving.traffic({"r1": 100})) == SETTLE_SECONDS
    serving.wait(SETTLE_SECONDS)
    assert await serving.write(serving.traffic({"r1": 100})) is None
    assert serving.written[1:] == [[("r1", 100)]]


async def test_a_gateway_that_confirms_nothing_is_not_waited_for_without_end(serving):
    wish = {"r1": 75, "r2": 25}
    await serving.write(serving.traffic(wish))
    serving.wait(UNCONFIRMED_SECONDS - 1)
    assert await serving.write(serving.traffic(wish)) == 1
    serving.wait(1)
    assert await serving.write(serving.traffic(wish)) is None
    assert serving.written[1:] == [[("r1", 75), ("r2", 25)]]


async def test_a_way_back_waits_for_no_gateway(serving):
    await arrive(serving, {"r1": 50, "r2": 50})
    await serving.write(serving.traffic({"r1": 0, "r2": 100}))
    await serving.write(serving.traffic({"r1": 100}))
    assert rounded(serving.shares()) == {"r1": 100}


async def test_a_way_back_waits_for_no_gateway_after_a_restart_either(serving):
    await arrive(serving, {"r1": 50, "r2": 50})
    await serving.write(serving.traffic({"r1": 0, "r2": 100}))
    serving.restart()
    await serving.write(serving.traffic({"r1": 100}))
    assert rounded(serving.shares()) == {"r1": 100}


async def test_a_way_back_from_a_long_watch_is_one_write(serving):
    await arrive(serving, {"r1": 50, "r2": 50})
    await arrive(serving, {"r1": 0, "r2": 100})
    serving.wait(3600)
    before = serving.writes
    await serving.write(serving.traffic({"r1": 100}))
    assert rounded(serving.shares()) == {"r1": 100}
    assert serving.writes == before + 1


async def test_a_new_process_waits_for_what_nobody_has_confirmed(serving):
    wish = {"r1": 75, "r2": 25}
    await serving.write(serving.traffic(wish))
    serving.restart()
    assert await serving.write(serving.traffic(wish)) == UNCONFIRMED_SECONDS
    serving.confirm()
    assert await serving.write(serving.traffic(wish)) is None
    assert rounded(serving.shares()) == wish
