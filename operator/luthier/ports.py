"""The seams: what a kind's controller is given, and what it has to offer. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from luthier.cache import Mark
from luthier.plan import HookAnswer, Json, Key, Plan
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

    def marked(self, mark: Mark) -> list[Json]:
        """Return the objects with a mark (`luthier.deployment.marks`)."""
        ...


class PodReader(Protocol):
    """Reads small JSON from pods (`luthier.podhttp`)."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PodReply:
    """One pod's counters, as it told them itself. `exceeded` and `aged` follow `luthier_server.counters.EDGES`."""

    uid: str
    name: str
    at: float
    """When the reply was there, Unix seconds."""
    process: float
    """When the process began to count, Unix seconds: with another one, all counts have begun again at 0."""
    started: int
    bad: int
    checked: int
    invalid: int
    critical: int
    exceeded: Sequence[int]
    aged: Sequence[int]
    refusals: int | None = None
    """None: the server is too old to count them."""
    votes: Mapping[str, tuple[int, int]] | None = None
    """All votes, and the bad ones, by the revision that gave the answer; None: it takes none."""


class FastLane(Protocol):
    """What the pods of rollouts in progress said in the last two minutes (`luthier.deployment.fastlane`)."""

    def replies(self, uid: str) -> tuple[PodReply, ...]:
        """Return the replies of an object's pods, by its UID, oldest first for each pod."""
        ...


class NoFastLane:
    """Polls nobody."""

    def replies(self, uid: str) -> tuple[PodReply, ...]:
        """Return nothing."""
        return ()


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
    fast: FastLane = field(default_factory=NoFastLane)
    freeze: Callable[[], str | None] = lambda: None
    """Why all rollouts rest (`luthier.freeze`); None: they may go."""
    answers: Callable[[Key], Mapping[str, HookAnswer]] = lambda _: {}
    """What was answered to the calls that the last pass wanted (`luthier.hooks`), by id."""


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
