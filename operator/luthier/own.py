"""The newest state of our own objects, and who waits for whom.

Fed from three sides: kopf's events, the periodic list (on gaining the Lease and every ten minutes: events tell nothing
to a new leader and can miss a deletion), and the replies to our status writes. What changes is enqueued, and with
it every object that refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from luthier.cache import Cache, Kept, Mark
from luthier.kube import Kube
from luthier.plan import Json, Key
from luthier.resources import OWN, Resource


def key_of(obj: Json) -> Key:
    """Return the key of one of our objects."""
    return Key(kind=obj["kind"], namespace=obj["metadata"]["namespace"], name=obj["metadata"]["name"])


class References:
    """Who refers to whom, as of each object's last pass; read backwards."""

    def __init__(self) -> None:
        self._forward: dict[Key, frozenset[Key]] = {}
        self._backward: dict[Key, set[Key]] = {}

    def set(self, key: Key, targets: Iterable[Key]) -> None:
        """Say what a key refers to now; nothing, when it is gone."""
        for old in self._forward.pop(key, frozenset()):
            referrers = self._backward[old]
            referrers.discard(key)
            if not referrers:
                del self._backward[old]
        if new := frozenset(targets):
            self._forward[key] = new
        for target in new:
            self._backward.setdefault(target, set()).add(key)

    def of(self, target: Key) -> tuple[Key, ...]:
        """Return who refers to a key."""
        return tuple(self._backward.get(target, ()))


class OwnCache:
    """All objects of our kinds in the namespaces that are served."""

    def __init__(
        self,
        *,
        enqueue: Callable[[Key], None],
        namespaces: Iterable[str] = (),
        marks_of: Callable[[Json], Iterable[Mark]] = lambda obj: (),
    ) -> None:
        self.references = References()
        self.is_loaded = False
        """True after the first whole list."""
        self._enqueue = enqueue
        self._caches = {
            (resource.kind, scope): Cache(key_of=key_of, marks_of=marks_of)
            for resource in OWN
            for scope in (tuple(namespaces) or (None,))
        }

    def get(self, key: Key) -> Json | None:
        """Return the object, or None."""
        return self._cache(key.kind, key.namespace).get(key.namespace, key.name)

    def all_keys(self) -> list[Key]:
        """Return the keys of all objects."""
        return [kept.key for cache in self._caches.values() for kept in cache if kept.key is not None]

    def all_objects(self) -> Iterator[Json]:
        """Yield all objects, one after the other: together they would not fit."""
        for cache in self._caches.values():
            for kept in cache:
                yield kept.packed.unpack()

    def marked(self, mark: Mark) -> list[Json]:
        """Return the objects with a mark."""
        return [obj for cache in self._caches.values() for obj in cache.marked(mark)]

    async def load(self, kube: Kube, resources: Iterable[Resource] = OWN) -> None:
        """List everything of these types and replace what was known; the first time, of all types."""
        for resource in resources:
            for (kind, scope), cache in self._caches.items():
                if kind == resource.kind:
                    await self._list(kube, resource, scope, cache)
        self.is_loaded = True

    def saw(self, event: str | None, obj: Json) -> None:
        """Take an event of the watch; None as its type means that it was listed."""
        cache = self._cache(obj["kind"], obj["metadata"]["namespace"])
        self._changed(cache.remove(obj) if event == "DELETED" else cache.put(obj))

    def wrote(self, obj: Json) -> None:
        """Take the reply to a write of ours."""
        self.saw("MODIFIED", obj)

    async def _list(self, kube: Kube, resource: Resource, scope: str | None, cache: Cache) -> None:
        listing, version = cache.begin_list(), "0"
        async for page in kube.list(resource, scope):
            self._changed(listing.add(page.items))
            version = page.resource_version
        self._changed(listing.end(version))

    def _cache(self, kind: str, namespace: str) -> Cache:
        scope = namespace if (kind, namespace) in self._caches else None
        return self._caches[kind, scope]

    def _changed(self, changed: list[Kept]) -> None:
        for kept in changed:
            if kept.key is not None:
                for each in (kept.key, *self.references.of(kept.key)):
                    self._enqueue(each)
