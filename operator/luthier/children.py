"""Writing children: made once or applied, never somebody else's, and nothing when nothing has changed.

Each applied manifest carries its own digest as an annotation. A child is left alone when the digest is the same and
the live object still says everything that the manifest says; so a hand edit is reverted, a field that we drop is
dropped, defaults of the API server are no change, and a restart with everything settled writes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from luthier.api.base import GROUP
from luthier.errors import Conflict, NameConflict
from luthier.keys import with_new_key
from luthier.kube import Kube
from luthier.naming import controller_uid, digest_json
from luthier.plan import Json, Manifest, Ref
from luthier.podspec import parse_quantity
from luthier.resources import BY_KIND
from luthier.store import Store

APPLIED = f"{GROUP}/applied"


def stamped(manifest: Manifest) -> Manifest:
    """Return a copy of a manifest that carries its own digest."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest_json(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def says(live: Any, wanted: Any, *, whole_lists: bool = False) -> bool:
    """Say whether a live value holds everything that is wanted; it may hold more (defaults, fields of others).

    Args:
        live: What the API server has.
        wanted: What a manifest says.
        whole_lists: Lists of named items may hold no others either: those that are atomic in the API.
    """
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            says(live[key], value, whole_lists=whole_lists) if key in live else _is_empty(value)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and _list_says(live, wanted, whole_lists=whole_lists)
    return bool(live == wanted) or _same_quantity(live, wanted)


def _is_empty(wanted: Any) -> bool:
    """Say whether the API server drops a value."""
    return wanted is None or wanted is False or wanted in ("", [], {})


def _list_says(live: list[Any], wanted: list[Any], *, whole_lists: bool) -> bool:
    names = [item.get("name") if isinstance(item, dict) else None for item in wanted]
    if not whole_lists and wanted and all(isinstance(n, str) for n in names) and len(set(names)) == len(names):
        by_name = {item.get("name"): item for item in live if isinstance(item, dict)}
        live = [by_name.get(name) for name in names]
    return len(live) == len(wanted) and all(
        says(a, b, whole_lists=whole_lists) for a, b in zip(live, wanted, strict=True)
    )


def _same_quantity(live: Any, wanted: Any) -> bool:
    """Compare quantities as numbers: the API server writes "0.5" as "500m"."""
    if not isinstance(live, str) or not isinstance(wanted, str | int):
        return False
    try:
        return parse_quantity(live) == parse_quantity(str(wanted))
    except ValueError:
        return False


class Children:
    """Makes, changes and deletes the children of our objects."""

    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube = kube
        self._store = store

    async def ensure(self, manifest: Manifest) -> None:
        """Make a child as it should be.

        Raises:
            NameConflict: The name belongs to an object that our object does not control.
        """
        resource = BY_KIND[manifest["kind"]]
        if resource.write_only:
            await self._create_unread(manifest)
            return
        metadata = manifest["metadata"]
        live = self._store.find(resource, metadata["namespace"], metadata["name"])
        if live is None and resource.create_once:
            await self._create(manifest)
            return
        if live is None:  # not made yet, or not ours: the store sees our label only
            live = await self._kube.get(resource, metadata["namespace"], metadata["name"])
        if live is not None:
            verify(manifest, live)
        wanted = stamped(manifest)
        if resource.create_once or (live is not None and says(live, wanted)):
            return
        if live is not None:  # only that one: not another that took its place a moment ago
            wanted["metadata"]["uid"] = live["metadata"]["uid"]
        # A new one is applied too, and not made by POST: what POST writes stays ours when a manifest drops it. Without
        # force, an object that somebody made a moment ago is a Conflict, not ours from now on.
        self._store.wrote(await self._kube.apply(wanted, force=live is not None))

    async def delete(self, ref: Ref) -> None:
        """Delete exactly the child that was seen."""
        reply = await self._kube.delete(ref)
        if reply["kind"] == "Status":
            self._store.deleted(ref)
        else:  # it goes later: by its finalizers, or its grace period
            self._store.wrote(reply)

    async def _create_unread(self, manifest: Manifest) -> None:
        """Make a Secret with a new key; one that is there keeps its own. Its name has our object's UID in it."""
        with suppress(Conflict):
            await self._kube.create(with_new_key(manifest))

    async def _create(self, manifest: Manifest) -> None:
        resource = BY_KIND[manifest["kind"]]
        metadata = manifest["metadata"]
        try:
            self._store.wrote(await self._kube.create(manifest))
        except Conflict:
            live = await self._kube.get(resource, metadata["namespace"], metadata["name"])
            if live is None:
                raise  # gone again: observe again
            verify(manifest, live)
            self._store.wrote(live)


def verify(manifest: Manifest, live: Json) -> None:
    """Make sure that a live object is a child of the same owner.

    Raises:
        NameConflict: It is not.
    """
    owner = controller_uid(manifest)
    if controller_uid(live) != owner:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        raise NameConflict(
            f"a {kind} named {name} is already there and is not controlled by this object; "
            f"delete or rename that {kind}, or use another name for this object"
        )
