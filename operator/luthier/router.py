"""Traffic between revisions: one HTTPRoute, written whole with explicit weights and the version that was read.

`rules` and `backendRefs` are atomic lists, and a missing weight means 1 (a real 50/50): so no apply, no merge.
What a step wants is decided elsewhere; the way there, in steps that fail no request, is `luthier.backends` for the
first rule, by weights, and `luthier.headerrule` for the second one, by a header.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from luthier.backends import next_backends, shares, traces_in
from luthier.children import says, stamped, verify
from luthier.errors import Conflict
from luthier.headerrule import next_rule, second_rule
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
        """Bring weights and header rule closer to what is wanted; an equal route is not written.

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
    confirmed_at: float | None = None
    entered: frozenset[str] | None = None
    """Who has entered with it, or shortly before; None: it was written by somebody else, or by an earlier process."""


class HttpRouteRouter:
    """The Gateway API."""

    def __init__(self, kube: Kube, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._store = store
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        """By UID, of routes on their way. In memory only: a new process waits once more."""

    async def write(self, traffic: Traffic) -> float | None:
        """Bring the weights closer to what is wanted; see `Router`."""
        manifest = traffic.manifest
        metadata = manifest["metadata"]
        live = self._store.find(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            live = await self._kube.get(HTTPROUTE, metadata["namespace"], metadata["name"])
        if live is None:
            rule = next_rule(None, second_rule(manifest), settled=False)
            made = _with_rules(manifest, _backends(manifest), rule)
            self._store.wrote(await self._kube.create(stamped(made)))
            return None if rule is None else 0.0
        verify(manifest, live)
        seen = self._look(live)
        refs, goal = _backends(live), _backends(manifest)
        is_settled = self._left(seen) <= 0
        unknown = frozenset() if is_settled else self._unknown(seen)
        now = next_backends(refs, goal, settled=is_settled, unknown=unknown)
        rule = next_rule(second_rule(live), second_rule(manifest), settled=is_settled)
        wanted = stamped(_with_rules(manifest, now, rule))
        if not says(live, wanted, whole_lists=True):
            if traffic.resource_version is None:
                raise Conflict(409, f"the route {metadata['name']} was absent when it was read, and is there now")
            wanted["metadata"]["resourceVersion"] = traffic.resource_version
            live = await self._kube.replace(wanted)
            self._store.wrote(live)
            seen = self._wrote(live, since=refs, unknown=unknown or frozenset())
        is_there = next_rule(rule, second_rule(manifest), settled=True) == rule
        if next_backends(now, goal, settled=True) != now or not is_there:
            return max(self._left(seen), 0.0)
        self._seen.pop(live["metadata"]["uid"], None)
        return None

    def _look(self, route: Json) -> _Seen:
        """Note what the gateway says of a route as it is now written."""
        uid, generation = route["metadata"]["uid"], route["metadata"].get("generation", 0)
        seen = self._seen.get(uid)
        if seen is None or seen.generation != generation:
            seen = _Seen(generation=generation, known_at=self._clock())
        if seen.confirmed_at is None and route_in_force(route):
            seen = replace(seen, confirmed_at=self._clock())
        self._seen[uid] = seen
        return seen

    def _wrote(self, route: Json, *, since: list[Json], unknown: frozenset[str]) -> _Seen:
        served = {backend["name"] for backend in since if backend.get("weight", 1)}
        traces = traces_in(_backends(route))
        entered = traces & unknown | traces - served
        seen = _Seen(generation=route["metadata"].get("generation", 0), known_at=self._clock(), entered=entered)
        self._seen[route["metadata"]["uid"]] = seen
        return seen

    def _unknown(self, seen: _Seen) -> frozenset[str] | None:
        # What is confirmed and not ours is as old as this process at least.
        return seen.entered if seen.entered is not None or seen.confirmed_at is None else frozenset()

    def _left(self, seen: _Seen) -> float:
        """Return for how many seconds the list should stay as it is."""
        if seen.confirmed_at is None:
            return seen.known_at + UNCONFIRMED_SECONDS - self._clock()
        return seen.confirmed_at + SETTLE_SECONDS - self._clock()


def _backends(route: Json) -> list[Json]:
    rules = route.get("spec", {}).get("rules") or [{}]
    found: list[Json] = rules[0].get("backendRefs", [])
    return found


def _with_rules(manifest: Manifest, backends: list[Json], second: Json | None) -> Manifest:
    spec = manifest["spec"]
    rules = [{**spec["rules"][0], "backendRefs": backends}, *([second] if second is not None else [])]
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
