"""What a list and a watch have shown so far: one set of objects, pure bookkeeping.

Three sources meet here in any order: whole lists, watch events, and the replies to our own writes (so that the next
decision sees what the last one wrote). The newer resourceVersion wins, object by object; they are comparable
integers (Kubernetes 1.35 promises what etcd always did). A whole list also says what is gone.

Objects are kept packed (`luthier.packing`); what must be known of all of them at once is beside it: who is to look
when one changes, and marks by which it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from sys import intern

from luthier.packing import Packed, Packer, pruned
from luthier.plan import Json, Key

Name = tuple[str, str]
"""Namespace and name."""
Mark = Hashable
"""What objects have in common with others: an owner, an address, a state."""


def version(obj: Json) -> int:
    """Return an object's resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """One object as it is kept."""

    namespace: str
    name: str
    uid: str
    version: int
    key: Key | None
    """Who is to look when it changes."""
    marks: tuple[Mark, ...]
    packed: Packed


class Cache:
    """The objects of one type. Every method returns what it changed, for the queue.

    Args:
        key_of: Says who is to look when an object changes.
        marks_of: Says by what an object is found, beside its name.
    """

    def __init__(
        self,
        *,
        key_of: Callable[[Json], Key | None] = lambda obj: None,
        marks_of: Callable[[Json], Iterable[Mark]] = lambda obj: (),
    ) -> None:
        self._key_of = key_of
        self._marks_of = marks_of
        self._packer = Packer()
        self._kept: dict[Name, Kept] = {}
        self._marked: dict[Mark, tuple[Kept, ...]] = {}
        self._floor = 0
        """Version of the newest whole list: what it does not hold and is not newer does not exist."""
        self._gone: dict[str, int] = {}
        """UIDs that we deleted, with the version that we knew: late events must not bring them back."""

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept.values())

    def get(self, namespace: str, name: str) -> Json | None:
        """Return the object, or None."""
        found = self._kept.get((namespace, name))
        return found.packed.unpack() if found else None

    def marked(self, mark: Mark) -> list[Json]:
        """Return the objects with a mark, by name."""
        found = sorted(self._marked.get(mark, ()), key=lambda kept: (kept.name, kept.namespace))
        return [kept.packed.unpack() for kept in found]

    def put(self, obj: Json) -> list[Kept]:
        """Take an object that was seen, or written by us; an older one changes nothing."""
        old = self._kept.get(_name(obj))
        if obj["metadata"]["uid"] in self._gone or version(obj) <= (old.version if old else self._floor):
            return []
        new = self._keep(obj)
        if old is not None:
            self._unmark(old)
        self._kept[new.namespace, new.name] = new
        for mark in new.marks:
            self._marked[mark] = (*self._marked.get(mark, ()), new)
        return [new]

    def remove(self, obj: Json) -> list[Kept]:
        """Take a deletion that was seen; `obj` is the last state, with the deletion's version."""
        self._gone.pop(obj["metadata"]["uid"], None)
        old = self._kept.get(_name(obj))
        if old is None or old.version > version(obj):
            return []
        return [self._drop(old)]

    def forget(self, namespace: str, name: str, uid: str) -> list[Kept]:
        """Take a deletion of our own that the server confirmed as done."""
        old = self._kept.get((namespace, name))
        if old is None or old.uid != uid:
            return []
        self._gone[uid] = old.version
        return [self._drop(old)]

    def begin_list(self) -> Listing:
        """Begin to take a whole list. One that is not ended, since a page failed, has taken nothing away."""
        return Listing(self)

    def end_list(self, uids: set[str], floor: int) -> list[Kept]:
        """Take the end of a whole list: what it lacks is gone, unless it is younger than the list."""
        gone = [old for old in self._kept.values() if old.uid not in uids and old.version <= floor]
        for old in gone:
            self._drop(old)
        self._gone = {uid: known for uid, known in self._gone.items() if known > floor or uid in uids}
        self._floor = max(self._floor, floor)
        return gone

    def clear(self) -> list[Kept]:
        """Take the news that the whole type is gone."""
        gone = list(self._kept.values())
        self._kept.clear()
        self._marked.clear()
        return gone

    def _keep(self, obj: Json) -> Kept:
        metadata = obj["metadata"]
        return Kept(
            namespace=intern(metadata["namespace"]),
            name=metadata["name"],
            uid=metadata["uid"],
            version=version(obj),
            key=self._key_of(obj),
            marks=tuple(dict.fromkeys(self._marks_of(obj))),
            packed=self._packer.pack(pruned(obj)),
        )

    def _drop(self, old: Kept) -> Kept:
        self._unmark(old)
        return self._kept.pop((old.namespace, old.name))

    def _unmark(self, old: Kept) -> None:
        for mark in old.marks:
            if left := tuple(kept for kept in self._marked[mark] if kept is not old):
                self._marked[mark] = left
            else:
                del self._marked[mark]


class Listing:
    """A whole list that comes page by page, so that no more than a page of it is ever unpacked."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._uids: set[str] = set()

    def add(self, objects: Iterable[Json]) -> list[Kept]:
        """Take one page."""
        changed = []
        for obj in objects:
            self._uids.add(obj["metadata"]["uid"])
            changed += self._cache.put(obj)
        return changed

    def end(self, resource_version: str) -> list[Kept]:
        """Take the end of the list, and the point in time that it shows."""
        return self._cache.end_list(self._uids, int(resource_version))


def _name(obj: Json) -> Name:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
