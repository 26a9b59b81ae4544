"""The seams: what a kind's controller is given, and what it has to offer. Types only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from luthier.plan import Json, Key, Plan
from luthier.resources import Resource

if TYPE_CHECKING:
    from luthier.settings import Settings


class Reader(Protocol):
    """Reads single objects from the API server (`luthier.kube`)."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return the object, or None when there is none."""
        ...


class Children(Protocol):
    """The store of our children (`luthier.store`)."""

    def owned(self, owner_uid: str, resource: Resource) -> list[Json]:
        """Return the children of one type that this owner controls, by name; Pods by its UID label alone."""
        ...


class OwnObjects(Protocol):
    """The newest objects of our three kinds, as the watch saw them (`luthier.watch`)."""

    def get(self, key: Key) -> Json | None:
        """Return the object, or None."""
        ...

    def all_objects(self) -> list[Json]:
        """Return all objects of our kinds."""
        ...


class PodReader(Protocol):
    """Reads small JSON from pods, for display (`luthier.podhttp`)."""

    async def json(self, url: str) -> Json | None:
        """Return the reply, or None when there is none within 0.5 s; at most 64 KiB, no redirects."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One raw sample of one series."""

    labels: dict[str, str]
    value: float
    at: float
    """Unix seconds."""


class Prometheus(Protocol):
    """Reads raw samples (`luthier.prometheus`)."""

    async def raw(self, query: str) -> list[Sample]:
        """Return all samples of a range-vector query.

        Raises:
            PrometheusError: It is down, slow, or does not understand; the message says which address.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything from outside that `observe` may use."""

    reader: Reader
    children: Children
    own: OwnObjects
    pods: PodReader
    prometheus: Prometheus
    settings: Settings
    now: datetime
    """The pass's time, aware UTC: read once, so that one pass has one clock."""


ObservedT = TypeVar("ObservedT")


class Controller(Protocol[ObservedT]):
    """One kind: reads, decides. The shell (`luthier.reconcile`) does the rest."""

    resource: Resource

    def references(self, obj: Json) -> tuple[Key, ...]:
        """Return the objects of ours that this one waits on or reads: their events enqueue it."""
        ...

    async def observe(self, obj: Json, ports: Ports) -> ObservedT:
        """Read all that a decision needs into one frozen value."""
        ...

    def decide(self, obj: Json, observed: ObservedT) -> Plan:
        """Decide, purely."""
        ...
