"""The children of our objects: one list and watch per type, kept for ever, and the index by owner.

A watch that ends goes on where it stopped; one that fails in any way backs off and begins again with a whole list,
which also shows what was deleted meanwhile. A type that the cluster does not know (Gateway API not installed) is
asked for again every 30 s and holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from sys import intern
from typing import Literal

from luthier.cache import Cache, Kept
from luthier.errors import ApiError, LuthierError, NotFound
from luthier.kube import Kube
from luthier.metrics import Metrics
from luthier.naming import KIND_LABEL, NAME_LABEL, SELECTOR, UID_LABEL, controller_uid
from luthier.plan import Json, Key, Ref
from luthier.resources import CHILDREN, OWN, POD, Resource

log = logging.getLogger(__name__)

_ABSENT_SECONDS = 30.0
_LAST_BACKOFF = 30.0
_OWN_KINDS = frozenset(resource.kind for resource in OWN)


class Store:
    """What exists of our children, as far as the watches and our own writes have shown."""

    def __init__(
        self,
        kube: Kube,
        *,
        metrics: Metrics,
        enqueue: Callable[[Key], None],
        namespaces: Iterable[str] = (),
        resources: Iterable[Resource] = CHILDREN,
    ) -> None:
        self._enqueue = enqueue
        self._reflectors = {
            (resource.kind, scope): Reflector(kube, resource, scope, metrics=metrics, changed=self._changed)
            for resource in resources
            for scope in (tuple(namespaces) or (None,))
        }

    async def run(self) -> None:
        """Keep every list and watch going until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors.values():
                group.create_task(reflector.run())

    async def wait_synced(self) -> None:
        """Wait until every type was listed, or is known to be absent."""
        for reflector in self._reflectors.values():
            await reflector.settled.wait()

    def is_synced(self) -> bool:
        """Say whether every type was listed, or is known to be absent."""
        return all(reflector.settled.is_set() for reflector in self._reflectors.values())

    def ages(self) -> dict[str, float]:
        """Return, by type, how long ago its quietest watch was heard of; absent types are left out."""
        ages: dict[str, float] = {}
        for (kind, _), reflector in self._reflectors.items():
            if reflector.state != "absent":
                ages[kind] = max(ages.get(kind, 0.0), time.monotonic() - reflector.heard_at)
        return ages

    def owned(self, owner_uid: str, resource: Resource) -> list[Json]:
        """Return the children of one type, by name: with this owner's UID label, and controlled by it.

        A label alone proves nothing: a copy that somebody made of our child carries it too. Pods are returned by
        label, since their controllers are our Jobs and Deployments, not our objects.
        """
        found = [
            child
            for (kind, _), reflector in self._reflectors.items()
            if kind == resource.kind
            for child in reflector.cache.marked(owner_uid)
        ]
        return found if resource is POD else [child for child in found if controller_uid(child) == owner_uid]

    def find(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return one child, whoever owns it."""
        reflector = self._reflector(resource.kind, namespace)
        return reflector.cache.get(namespace, name) if reflector else None

    def wrote(self, obj: Json) -> None:
        """Take the reply to a write of ours: the next decision sees it, whatever the watch lags."""
        reflector = self._reflector(obj["kind"], obj["metadata"]["namespace"])
        if reflector is not None:
            self._changed(reflector.cache.put(obj))

    def deleted(self, ref: Ref) -> None:
        """Take a deletion of ours that the server confirmed as done."""
        reflector = self._reflector(ref.kind, ref.namespace)
        if reflector is not None:
            self._changed(reflector.cache.forget(ref.namespace, ref.name, ref.uid))

    def _reflector(self, kind: str, namespace: str) -> Reflector | None:
        return self._reflectors.get((kind, namespace)) or self._reflectors.get((kind, None))

    def _changed(self, changed: list[Kept]) -> None:
        for kept in changed:
            if kept.key is not None:
                self._enqueue(kept.key)


def _key_of_owner(child: Json) -> Key | None:
    metadata = child["metadata"]
    labels = metadata.get("labels", {})
    if labels.get(KIND_LABEL) not in _OWN_KINDS or NAME_LABEL not in labels:
        return None
    kind, namespace, name = labels[KIND_LABEL], metadata["namespace"], labels[NAME_LABEL]
    return Key(kind=intern(kind), namespace=intern(namespace), name=intern(name))


def _owner_of(child: Json) -> tuple[str, ...]:
    """Mark a child with its owner's UID, by its label."""
    uid = child["metadata"].get("labels", {}).get(UID_LABEL)
    return (intern(uid),) if uid else ()


class Reflector:
    """One type, in one namespace or all: list, watch, list again. Never ends by itself."""

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        namespace: str | None,
        *,
        metrics: Metrics,
        changed: Callable[[list[Kept]], None],
    ) -> None:
        self.resource = resource
        self.cache = Cache(key_of=_key_of_owner, marks_of=_owner_of)
        self.settled = asyncio.Event()
        self.state: Literal["new", "synced", "absent"] = "new"
        self.heard_at = time.monotonic()
        self._kube = kube
        self._namespace = namespace
        self._metrics = metrics
        self._changed = changed
        self._failures = 0

    async def run(self) -> None:
        """Keep going until cancelled."""
        while True:
            try:
                since = await self._list()
                while True:
                    since = await self._watch(since)
            except LuthierError as error:
                if self._is_absence(error):
                    self._absent(str(error))
                    await asyncio.sleep(_ABSENT_SECONDS)
                else:
                    await self._back_off(error)

    def _is_absence(self, error: LuthierError) -> bool:
        is_forbidden = isinstance(error, ApiError) and error.status == 403
        return isinstance(error, NotFound) or (is_forbidden and self.resource.optional)

    async def _list(self) -> str:
        self._metrics.relists.labels(self.resource.plural).inc()
        listing, since = self.cache.begin_list(), "0"
        async for page in self._kube.list(self.resource, self._namespace, SELECTOR):
            self._changed(listing.add(page.items))
            since = page.resource_version
        self._changed(listing.end(since))
        self._heard("synced")
        return since

    async def _watch(self, since: str) -> str:
        """Follow one watch to its end and return where it stopped."""
        began = time.monotonic()
        async for kind, obj in self._kube.watch(self.resource, self._namespace, since, SELECTOR):
            since = obj["metadata"]["resourceVersion"]
            self._failures = 0
            self._heard("synced")
            if kind in ("ADDED", "MODIFIED"):
                self._changed(self.cache.put(obj))
            elif kind == "DELETED":
                self._changed(self.cache.remove(obj))
        self._heard("synced")
        if time.monotonic() - began < 1:  # a server that closes at once is not to be hammered
            await asyncio.sleep(1)
        return since

    def _absent(self, why: str) -> None:
        if self.state != "absent":
            log.warning("goes on without %s: %s", self.resource.plural, why, extra={"resource": self.resource.plural})
        self._changed(self.cache.clear())
        self._heard("absent")

    def _heard(self, state: Literal["synced", "absent"]) -> None:
        self.state = state
        self.heard_at = time.monotonic()
        self.settled.set()

    async def _back_off(self, error: LuthierError) -> None:
        expired = getattr(error, "status", 0) == 410
        delay = 0.0 if expired and not self._failures else min(0.5 * 2**self._failures, _LAST_BACKOFF)
        self._failures = min(self._failures + 1, 10)
        level = logging.DEBUG if expired else logging.WARNING
        log.log(level, "watch begins again: %s", error, extra={"resource": self.resource.plural})
        await asyncio.sleep(delay * (0.8 + 0.4 * random.random()))
