"""Traffic between revisions: one HTTPRoute, written whole with explicit weights and the version that was read.

`rules` and `backendRefs` are atomic lists, and a missing weight means 1 (a real 50/50): so no apply, no merge.
The pure functions read weights back; what a step wants is decided elsewhere.
"""

from __future__ import annotations

from typing import Any, Protocol

from luthier.children import says, stamped, verify
from luthier.errors import Conflict
from luthier.kube import Kube
from luthier.plan import Json, Traffic
from luthier.resources import HTTPROUTE
from luthier.store import Store


class Router(Protocol):
    """What a gateway has to offer."""

    async def write(self, traffic: Traffic) -> None:
        """Set the weights; an equal route is not written.

        Raises:
            Conflict: The route is not the one that was read.
            NameConflict: A route of that name is not ours.
        """
        ...


class HttpRouteRouter:
    """The Gateway API."""

    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube = kube
        self._store = store

    async def write(self, traffic: Traffic) -> None:
        """Set the weights; see `Router`."""
        wanted = stamped(traffic.manifest)
        metadata = wanted["metadata"]
        live = self._store.find(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            live = await self._kube.get(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            self._store.wrote(await self._kube.create(wanted))
            return
        verify(wanted, live)
        if says(live, wanted, whole_lists=True):
            return
        if traffic.resource_version is None:
            raise Conflict(409, f"the route {metadata['name']} was absent when it was read, and is there now")
        metadata["resourceVersion"] = traffic.resource_version
        self._store.wrote(await self._kube.replace(wanted))


def route_weights(route: Json) -> dict[str, int]:
    """Return the weight of each Service of the route's first rule; an absent weight is 1, as the gateway takes it."""
    rules = route.get("spec", {}).get("rules") or [{}]
    weights: dict[str, int] = {}
    for backend in rules[0].get("backendRefs", ()):
        if backend.get("kind", "Service") == "Service":
            weights[backend["name"]] = weights.get(backend["name"], 0) + int(backend.get("weight", 1))
    return weights


def route_in_force(route: Json) -> bool:
    """Say whether every Gateway named by the route has accepted it as it is now written."""
    generation = route["metadata"].get("generation", 0)
    parents = route.get("spec", {}).get("parentRefs", [])
    reported = route.get("status", {}).get("parents", [])
    return bool(parents) and all(_is_accepted(parent, reported, route, generation) for parent in parents)


_PARENT_DEFAULTS = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}


def _is_accepted(parent: Json, reported: list[Json], route: Json, generation: int) -> bool:
    namespace = route["metadata"]["namespace"]
    mine = [entry for entry in reported if _identity(entry["parentRef"], namespace) == _identity(parent, namespace)]
    return any(_conditions_hold(entry.get("conditions", []), generation) for entry in mine)


def _identity(parent: Json, namespace: str) -> dict[str, Any]:
    fields = {**_PARENT_DEFAULTS, "namespace": namespace, **parent}
    return {name: fields.get(name) for name in ("group", "kind", "namespace", "name", "sectionName", "port")}


def _conditions_hold(conditions: list[Json], generation: int) -> bool:
    """Accepted must be there; ResolvedRefs and Programmed must not say no; all must be of this generation."""
    by_type = {condition["type"]: condition for condition in conditions}
    named = [by_type[name] for name in ("Accepted", "ResolvedRefs", "Programmed") if name in by_type]
    return "Accepted" in by_type and all(
        c["status"] == "True" and c.get("observedGeneration", 0) >= generation for c in named
    )
