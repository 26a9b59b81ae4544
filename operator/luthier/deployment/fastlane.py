"""Polls the pods of rollouts in progress, each second, so that a rollback needs no Prometheus and no scrape.

It only reads. What the pods said is kept for two minutes, in memory: `observe` takes it into the same test that
Prometheus' samples feed, and when it alone proves the candidate worse, the object's key is queued at once. An advance
still needs Prometheus. Runs while the Lease is held.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, zip_longest

from luthier.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from luthier.deployment.analysis import Measured
from luthier.deployment.build import ROLE
from luthier.deployment.look import NOT_ASKED, fails_by_pods
from luthier.deployment.marks import ROLLING_OUT
from luthier.deployment.observe import Observed, revision_of
from luthier.deployment.pods import is_ready
from luthier.deployment.replies import parse_reply
from luthier.deployment.rollout import as_begun
from luthier.draft import read_spec
from luthier.jobs import is_deleting
from luthier.naming import ROLE_LABEL
from luthier.plan import Json, Key
from luthier.ports import Children, OwnObjects, PodReader, PodReply
from luthier.resources import MODELDEPLOYMENT, POD
from luthier.settings import Settings
from luthier_server.config import PORT

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
WAIT_SECONDS = 0.5
"""For replies; a later one is judged in the next round."""
MAX_STABLE_PODS = 16
MAX_POLLS_PER_SECOND = 200
"""Of all objects together: with more pods than that a round takes longer, for all of them alike."""
KEPT_SECONDS = 120.0
"""Longer than the test's memory in status is old: what happened since can be replayed."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A pod to poll."""

    uid: str
    name: str
    url: str


class FastLane:
    """Implements `luthier.ports.FastLane`. One event loop, no locks."""

    def __init__(
        self,
        *,
        own: OwnObjects,
        children: Children,
        pods: PodReader,
        settings: Settings,
        wake: Callable[[Key], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        counted: Callable[[bool], None] = lambda answered: None,
    ) -> None:
        self._own = own
        self._children = children
        self._pods = pods
        self._settings = settings
        self._wake = wake
        self._clock = clock
        self._counted = counted
        self._kept: dict[str, dict[str, deque[PodReply]]] = {}
        """By object, by pod."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        """By pod."""

    def replies(self, uid: str) -> tuple[PodReply, ...]:
        """Return what an object's pods said, oldest first for each pod."""
        return tuple(chain.from_iterable(self._kept.get(uid, {}).values()))

    async def run(self) -> None:
        """Poll and wake, until cancelled. Nothing is kept afterwards: another replica may have acted meanwhile."""
        try:
            while True:
                next_at = asyncio.get_running_loop().time() + ROUND_SECONDS
                await self._round()
                await _sleep_until(next_at)
        finally:
            for task in self._asking.values():
                task.cancel()
            self._asking.clear()
            self._kept.clear()

    async def _round(self) -> None:
        objects = self._own.marked(ROLLING_OUT)
        targets = {obj["metadata"]["uid"]: targets_of(obj, self._children) for obj in objects}
        self._forget(targets)
        for batch in _batches(targets):
            next_at = asyncio.get_running_loop().time() + ROUND_SECONDS
            await self._ask(batch)
            asked = {uid for uid, _ in batch}
            for obj in objects:
                if obj["metadata"]["uid"] in asked:
                    self._judge(obj)
            if len(batch) == MAX_POLLS_PER_SECOND:
                await _sleep_until(next_at)

    async def _ask(self, batch: list[tuple[str, Target]]) -> None:
        """Ask each pod that has answered the last time; a slow one keeps nobody waiting."""
        asked = []
        for uid, target in batch:
            if target.uid not in self._asking:
                task = self._asking[target.uid] = asyncio.create_task(self._poll(uid, target))
                task.add_done_callback(partial(self._asked, target.uid))
                asked.append(task)
        if asked:
            await asyncio.wait(asked, timeout=WAIT_SECONDS)

    def _asked(self, pod: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(pod, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the fast lane could not ask %s", pod, exc_info=error)

    async def _poll(self, uid: str, target: Target) -> None:
        now = self._clock().timestamp()  # as a scrape is stamped: what it counts has begun by then, or later
        value = await self._pods.json(target.url)
        reply = parse_reply(value, uid=target.uid, name=target.name, at=now) if value is not None else None
        self._counted(reply is not None)
        kept = self._kept.setdefault(uid, {}).setdefault(target.uid, deque())
        if reply is not None:
            kept.append(reply)
        while kept and kept[0].at < now - KEPT_SECONDS:
            kept.popleft()

    def _forget(self, targets: dict[str, list[Target]]) -> None:
        """Drop what was said by pods that are no longer asked."""
        for uid in self._kept.keys() - targets.keys():
            del self._kept[uid]
        for uid, pods in self._kept.items():
            for gone in pods.keys() - {target.uid for target in targets[uid]}:
                del pods[gone]

    def _judge(self, obj: Json) -> None:
        try:
            if self._is_proven_worse(obj):
                self._wake(_key_of(obj))
        except Exception:  # a pass over the object meets the same error and tells it; the other objects go on
            log.exception("the fast lane could not judge", extra={"name": obj["metadata"]["name"]})

    def _is_proven_worse(self, obj: Json) -> bool:
        meta = obj["metadata"]
        status = ModelDeploymentStatus.model_validate(obj["status"])
        seen = Observed(
            now=self._clock(),
            settings=self._settings,
            pods=tuple(_serving_pods(obj, self._children)),
            measured=Measured(replies=self.replies(meta["uid"]), error=NOT_ASKED),
        )
        spec = as_begun(read_spec(ModelDeploymentSpec, obj), status.rollout)
        return fails_by_pods(obj, spec, status, seen)


def _key_of(obj: Json) -> Key:
    meta = obj["metadata"]
    return Key(kind=MODELDEPLOYMENT.kind, namespace=meta["namespace"], name=meta["name"])


def targets_of(obj: Json, children: Children) -> list[Target]:
    """Return the pods to poll: all of the candidate's, and some of the stable's.

    Which of the stable's depends on their UIDs alone: neither on how they do, nor on who asks.
    """
    status = obj["status"]
    pods = sorted(_serving_pods(obj, children), key=lambda pod: str(pod["metadata"]["uid"]))
    candidate = [p for p in pods if revision_of(p) == status["candidate"]["name"]]
    stable = [p for p in pods if revision_of(p) == status["stable"]["name"] and is_ready(p)]
    return [target for pod in (*candidate, *stable[:MAX_STABLE_PODS]) if (target := _target(pod)) is not None]


def _serving_pods(obj: Json, children: Children) -> Iterator[Json]:
    for pod in children.owned(obj["metadata"]["uid"], POD):
        if pod["metadata"]["labels"].get(ROLE_LABEL) == ROLE:
            yield pod


def _target(pod: Json) -> Target | None:
    status = pod.get("status", {})
    address = status.get("podIP")
    if not address or status.get("phase") != "Running" or is_deleting(pod):
        return None
    host = f"[{address}]" if ":" in address else address
    meta = pod["metadata"]
    return Target(uid=meta["uid"], name=meta["name"], url=f"http://{host}:{PORT}/luthier/counters")


def _batches(targets: dict[str, list[Target]]) -> Iterator[list[tuple[str, Target]]]:
    """Yield all pods, at most so many a second, the objects taking turns."""
    turns = zip_longest(*([(uid, target) for target in pods] for uid, pods in targets.items()))
    flat = [pair for turn in turns for pair in turn if pair is not None]
    for first in range(0, len(flat), MAX_POLLS_PER_SECOND):
        yield flat[first : first + MAX_POLLS_PER_SECOND]


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
