"""The newest state of our own objects, and who waits for whom.

Fed from three sides: kopf's events, the periodic list (on gaining the Lease and every ten minutes: events tell nothing
to a new leader and can miss a deletion), and the replies to our status writes. What changes is enqueued, and with
it every object that refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from luthier.cache import Cache
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

    def __init__(self, *, enqueue: Callable[[Key], None], namespaces: Iterable[str] = ()) -> None:
        self.references = References()
        self.is_loaded = False
        """True after the first whole list."""
        self._enqueue = enqueue
        self._caches = {(resource.kind, scope): Cache() for resource in OWN for scope in (tuple(namespaces) or (None,))}

    def get(self, key: Key) -> Json | None:
        """Return the object, or None."""
        return self._cache(key.kind, key.namespace).get(key.namespace, key.name)

    def all_keys(self) -> list[Key]:
        """Return the keys of all objects."""
        return [key_of(obj) for obj in self.all_objects()]

    def all_objects(self) -> list[Json]:
        """Return all objects."""
        return [obj for cache in self._caches.values() for obj in cache]

    async def load(self, kube: Kube, resources: Iterable[Resource] = OWN) -> None:
        """List everything of these types and replace what was known; the first time, of all types."""
        for resource in resources:
            for (kind, scope), cache in self._caches.items():
                if kind == resource.kind:
                    page = await kube.list(resource, scope)
                    self._changed(cache.replace(page.items, page.resource_version))
        self.is_loaded = True

    def saw(self, event: str | None, obj: Json) -> None:
        """Take an event of the watch; None as its type means that it was listed."""
        if "managedFields" in obj["metadata"]:  # often half of an object, and read by nobody here
            # A copy: kopf goes on with its own, in another thread.
            metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
            obj = {**obj, "metadata": metadata}
        cache = self._cache(obj["kind"], obj["metadata"]["namespace"])
        self._changed(cache.remove(obj) if event == "DELETED" else cache.put(obj))

    def wrote(self, obj: Json) -> None:
        """Take the reply to a write of ours."""
        self.saw("MODIFIED", obj)

    def _cache(self, kind: str, namespace: str) -> Cache:
        scope = namespace if (kind, namespace) in self._caches else None
        return self._caches[kind, scope]

    def _changed(self, objects: list[Json]) -> None:
        for obj in objects:
            key = key_of(obj)
            for each in (key, *self.references.of(key)):
                self._enqueue(each)
