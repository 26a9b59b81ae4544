"""How an object is kept in memory: without what nobody reads, as bytes that look like its neighbours: pure.

As Python values, an object takes ten times the room of its text; and of a type's texts, nearly all is the same. So a
text is compressed against an earlier one of its type, which leaves what is its own: names, numbers, times.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from luthier.plan import Json

_WINDOW = 32768
"""zlib looks no further back."""

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "ownerReferences",
)
_POD_STATUS = ("phase", "reason", "message", "startTime", "podIP", "conditions")
_CONTAINER_STATUS = ("name", "image", "ready", "started", "restartCount", "state", "lastState")


@dataclass(frozen=True, slots=True)
class Packed:
    """One object's bytes, and the text that they were compressed against."""

    data: bytes
    like: bytes

    def unpack(self) -> Json:
        """Return the object: equal to what was packed, and the caller's own."""
        text = zlib.decompressobj(zdict=self.like).decompress(self.data)
        obj: Json = orjson.loads(text)
        return obj


class Packer:
    """Packs the objects of one type."""

    def __init__(self) -> None:
        self._like = b"{}"
        self._count = 0

    def pack(self, obj: Json) -> Packed:
        """Return an object's bytes."""
        text = orjson.dumps(obj)
        press = zlib.compressobj(zdict=self._like)
        packed = Packed(data=press.compress(text) + press.flush(), like=self._like)
        self._count += 1
        # The 1st, 2nd, 4th, 8th … is the pattern of the next: the first of all may be a poor one, and the old
        # patterns stay in memory with those that were packed by them.
        if self._count & (self._count - 1) == 0:
            self._like = text[:_WINDOW]
        return packed


def pruned(obj: Json) -> Json:
    """Return what is read of an object, without changing it. Our own and what we apply is whole but managedFields."""
    if obj.get("kind") == "Pod":
        return _pod(obj)
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "managedFields"}}


def _pod(pod: Json) -> Json:
    """Return a pod as `luthier.jobs`, `luthier.deployment.pods` and the fast lane read it."""
    kept: Json = {key: pod[key] for key in ("apiVersion", "kind") if key in pod}
    kept["metadata"] = _only(pod["metadata"], _POD_METADATA)
    if "spec" in pod:
        containers = pod["spec"].get("containers") or []
        kept["spec"] = {"containers": [_only(container, ("name", "resources")) for container in containers]}
    if "status" in pod:
        kept["status"] = _only(pod["status"], _POD_STATUS)
        for which in ("initContainerStatuses", "containerStatuses"):
            if which in pod["status"]:
                kept["status"][which] = [_only(status, _CONTAINER_STATUS) for status in pod["status"][which]]
    return kept


def _only(whole: Json, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: whole[key] for key in keys if key in whole}
