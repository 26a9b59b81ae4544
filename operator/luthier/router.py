"""Traffic between revisions: one HTTPRoute, written whole with explicit weights and the version that was read.

`rules` and `backendRefs` are atomic lists, and a missing weight means 1 (a real 50/50): so no apply, no merge.
What a step wants is decided elsewhere; the way there, in steps that fail no request, is `luthier.backends`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.backends import next_backends, shares
from luthier.children import says, stamped, verify
from luthier.errors import Conflict
from luthier.kube import Kube
from luthier.plan import Json, Manifest, Traffic
from luthier.resources import HTTPROUTE
from luthier.store import Store

SETTLE_SECONDS = 1.0
"""From the gateway's confirmation until its proxies have what it confirmed."""
UNCONFIRMED_SECONDS = 30.0
"""A gateway that does not confirm a change of the list for so long is not waited for."""


class Router(Protocol):
    """What a gateway has to offer; `tests/routercontract.py` says it as tests, for this and any other one."""

    async def write(self, traffic: Traffic) -> float | None:
        """Bring the weights closer to what is wanted; an equal route is not written.

        Less traffic is in the first write. Who had none gets it in a later one.

        Returns:
            In how many seconds, at the latest, to call again; None: the route says what is wanted.

        Raises:
            Conflict: The route is not the one that was read.
            NameConflict: A route of that name is not ours.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Since when a route's generation is known, and confirmed."""

    generation: int
    known_at: float
    confirmed_at: float | None


class HttpRouteRouter:
    """The Gateway API."""

    def __init__(self, kube: Kube, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._store = store
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        """By UID. In memory only: a new process waits once more."""

    async def write(self, traffic: Traffic) -> float | None:
        """Bring the weights closer to what is wanted; see `Router`."""
        manifest = traffic.manifest
        metadata = manifest["metadata"]
        live = self._store.find(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            live = await self._kube.get(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            self._store.wrote(await self._kube.create(stamped(manifest)))
            return None
        verify(manifest, live)
        refs, goal = _backends(live), _backends(manifest)
        now = next_backends(refs, goal, settled=self._wait(live) <= 0)
        is_last = next_backends(now, goal, settled=True) == now
        wanted = stamped(_with_backends(manifest, now))
        if says(live, wanted, whole_lists=True):
            return self._go_on(live, is_last=is_last)
        if traffic.resource_version is None:
            raise Conflict(409, f"the route {metadata['name']} was absent when it was read, and is there now")
        wanted["metadata"]["resourceVersion"] = traffic.resource_version
        written = await self._kube.replace(wanted)
        self._store.wrote(written)
        return self._go_on(written, is_last=is_last)

    def _go_on(self, route: Json, *, is_last: bool) -> float | None:
        if not is_last:
            return max(self._wait(route), 0.0)
        self._seen.pop(route["metadata"]["uid"], None)
        return None

    def _wait(self, route: Json) -> float:
        """Return for how many seconds the list should stay as it is."""
        uid, generation, now = route["metadata"]["uid"], route["metadata"].get("generation", 0), self._clock()
        seen = self._seen.get(uid)
        if seen is None or seen.generation != generation:
            seen = _Seen(generation=generation, known_at=now, confirmed_at=None)
        if seen.confirmed_at is None and route_in_force(route):
            seen = _Seen(generation=generation, known_at=seen.known_at, confirmed_at=now)
        self._seen[uid] = seen
        if seen.confirmed_at is None:
            return seen.known_at + UNCONFIRMED_SECONDS - now
        return seen.confirmed_at + SETTLE_SECONDS - now


def _backends(route: Json) -> list[Json]:
    rules = route.get("spec", {}).get("rules") or [{}]
    found: list[Json] = rules[0].get("backendRefs", [])
    return found


def _with_backends(manifest: Manifest, backends: list[Json]) -> Manifest:
    spec = manifest["spec"]
    first, *others = spec["rules"]
    rules = [{**first, "backendRefs": backends}, *others]
    return {**manifest, "metadata": dict(manifest["metadata"]), "spec": {**spec, "rules": rules}}


def route_weights(route: Json) -> dict[str, int]:
    """Return the percentage of each Service of the route's first rule; see `shares`."""
    return shares(_backends(route))


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
