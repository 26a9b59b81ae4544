"""What a list and a watch have shown so far: one set of objects, pure bookkeeping.

Three sources meet here in any order: whole lists, watch events, and the replies to our own writes (so that the next
decision sees what the last one wrote). The newer resourceVersion wins, object by object; they are comparable
integers (Kubernetes 1.35 promises what etcd always did). A whole list also says what is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luthier.plan import Json

Name = tuple[str, str]
"""Namespace and name."""


def version(obj: Json) -> int:
    """Return an object's resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


class Cache:
    """The objects of one type. Every method returns what it changed, for the queue."""

    def __init__(self) -> None:
        self._objects: dict[Name, Json] = {}
        self._floor = 0
        """Version of the newest whole list: what it does not hold and is not newer does not exist."""
        self._gone: dict[str, int] = {}
        """UIDs that we deleted, with the version that we knew: late events must not bring them back."""

    def __iter__(self) -> Iterator[Json]:
        return iter(self._objects.values())

    def get(self, namespace: str, name: str) -> Json | None:
        """Return the object, or None."""
        return self._objects.get((namespace, name))

    def put(self, obj: Json) -> list[Json]:
        """Take an object that was seen, or written by us; an older one changes nothing."""
        old = self._objects.get(_name(obj))
        if obj["metadata"]["uid"] in self._gone or version(obj) <= (version(old) if old else self._floor):
            return []
        self._objects[_name(obj)] = obj
        return [obj]

    def remove(self, obj: Json) -> list[Json]:
        """Take a deletion that was seen; `obj` is the last state, with the deletion's version."""
        self._gone.pop(obj["metadata"]["uid"], None)
        old = self._objects.get(_name(obj))
        if old is None or version(old) > version(obj):
            return []
        return [self._objects.pop(_name(obj))]

    def forget(self, namespace: str, name: str, uid: str) -> list[Json]:
        """Take a deletion of our own that the server confirmed as done."""
        old = self._objects.get((namespace, name))
        if old is None or old["metadata"]["uid"] != uid:
            return []
        self._gone[uid] = version(old)
        return [self._objects.pop((namespace, name))]

    def replace(self, objects: Iterable[Json], resource_version: str) -> list[Json]:
        """Take a whole list: what it lacks is gone, unless it is younger than the list."""
        floor = int(resource_version)
        listed = {_name(obj): obj for obj in objects}
        gone = [old for name, old in self._objects.items() if name not in listed and version(old) <= floor]
        for old in gone:
            del self._objects[_name(old)]
        changed = [obj for obj in listed.values() if self.put(obj)]
        uids = {obj["metadata"]["uid"] for obj in listed.values()}
        self._gone = {uid: known for uid, known in self._gone.items() if known > floor or uid in uids}
        self._floor = max(self._floor, floor)
        return gone + changed

    def clear(self) -> list[Json]:
        """Take the news that the whole type is gone."""
        gone = list(self._objects.values())
        self._objects.clear()
        return gone


def _name(obj: Json) -> Name:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
