"""What a decision is made of: plain data, executed in one place (`luthier.reconcile`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Manifest = dict[str, Any]
"""A complete child object: apiVersion, kind, metadata with name, namespace, labels and one ownerReference, spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One object of ours: the unit of work of the queue."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A child to delete: only if it still is the one that was seen (UID precondition)."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    propagation: Literal["Background", "Foreground"] = "Background"


@dataclass(frozen=True, kw_only=True)
class Event:
    """A Kubernetes event about our object. Equal events within ten minutes become one with a count."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The route as it should be: weights by Service name, in percent, summing to 100; 0 keeps somebody ready.

    `manifest` is the whole HTTPRoute; the router writes it with the resourceVersion that was read.
    """

    manifest: Manifest
    resource_version: str | None


@dataclass(frozen=True, kw_only=True)
class Call:
    """An HTTP call that is wanted for as long as plans say so. The same id is the same call, tried again."""

    id: str
    url: str
    body: Json


@dataclass(frozen=True, kw_only=True)
class HookAnswer:
    """What the newest try of a call brought."""

    ok: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass does. Order: traffic, apply, delete, extras, status, events.

    `status_first`, when somebody gains traffic: status, apply, traffic, delete, extras, events.
    `status` is the whole desired status; an equal one is not written. Jobs and ControllerRevisions are created
    once and never re-applied; all else goes by server-side apply.
    """

    status: Json
    apply: tuple[Manifest, ...] = ()
    traffic: Traffic | None = None
    delete: tuple[Ref, ...] = ()
    events: tuple[Event, ...] = ()
    status_first: bool = False
    extras: tuple[Manifest, ...] = ()
    """Children that may be refused while the rest goes on: it is said in the status, beside what was decided."""
    requeue_after: float | None = None
    calls: tuple[Call, ...] = ()
    """All calls that are wanted after this pass; they are begun when it has written everything."""
