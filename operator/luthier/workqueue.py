"""One queue of keys: each is there once, is due at one time, and is never worked on twice at once.

`Schedule` is the whole logic on a given clock; `WorkQueue` lets workers wait for it. Events bring a key forward, but
a key that has just failed waits at least a second, and a throttled one as long as the server asked.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from luthier.plan import Key

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
LAST_BACKOFF = 60.0
_FAILURE_REST = 1.0
_SPARE = 64
"""Overtaken times that may lie in the heap, beside one for each key that is due: they cost memory alone."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A pass ended well; look again after this time, if one is given."""

    requeue_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A pass did not end well: exponential back-off, and not before this time."""

    not_before_seconds: float = 0.0


Outcome = Done | Retry


class Schedule:
    """Which key is due when. No clock of its own, no waiting."""

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        """Equal times are served first in, first out."""
        self._due: dict[Key, float] = {}
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def ready(self, now: float) -> int:
        """Count the keys that are due and wait for a worker."""
        return sum(1 for key, at in self._due.items() if at <= now and key not in self._working)

    def working(self) -> int:
        """Count the keys that are being worked on."""
        return len(self._working)

    def add(self, key: Key, at: float) -> None:
        """Make a key due at a time; the earlier of two wins, but none undercuts its rest."""
        at = max(at, self._not_before.get(key, at))
        if at >= self._due.get(key, float("inf")):
            return
        self._due[key] = at
        if key not in self._working:
            self._push(key, at)

    def take(self, now: float) -> Key | None:
        """Hand out the key that has been due for longest; None when none is."""
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at and key not in self._working:
                del self._due[key]
                self._working.add(key)
                return key
        return None

    def next_at(self) -> float | None:
        """Return when the next key is due."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) == at and key not in self._working:
                return at
            heapq.heappop(self._heap)  # overtaken by an earlier time, or being worked on
        return None

    def finish(self, key: Key, outcome: Outcome, now: float) -> None:
        """Take a key back; what was added meanwhile counts."""
        self._not_before.pop(key, None)
        if isinstance(outcome, Retry):
            self._rest(key, outcome, now)
        else:
            self._failures.pop(key, None)
            if outcome.requeue_after is not None:
                self.add(key, now + outcome.requeue_after)
        self._working.discard(key)  # only now: until here a time is noted and not pushed
        if key in self._due:
            at = self._due[key] = max(self._due[key], self._not_before.get(key, 0.0))
            self._push(key, at)

    def clear(self) -> None:
        """Forget everything but what is being worked on."""
        self._heap.clear()
        self._due.clear()
        self._failures.clear()
        self._not_before.clear()

    def _rest(self, key: Key, outcome: Retry, now: float) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_BACKOFF * 2 ** min(failures - 1, 10), LAST_BACKOFF)
        delay = max(delay * (0.8 + 0.4 * self._jitter()), outcome.not_before_seconds)
        self._not_before[key] = now + max(min(delay, _FAILURE_REST), outcome.not_before_seconds)
        self.add(key, now + delay)

    def _push(self, key: Key, at: float) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, key))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)


class WorkQueue:
    """A schedule that workers of one event loop can wait for."""

    def __init__(self) -> None:
        self._schedule = Schedule()
        self._changed = asyncio.Event()

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Make a key due now, or later. Only from the queue's own loop."""
        self._schedule.add(key, _now() + after)
        self._changed.set()

    def clear(self) -> None:
        """Forget everything but what is being worked on."""
        self._schedule.clear()

    def depth(self) -> int:
        """Count the keys that are due and wait for a worker."""
        return self._schedule.ready(_now())

    def working(self) -> int:
        """Count the keys that are being worked on."""
        return self._schedule.working()

    async def work(self, run: Callable[[Key], Awaitable[Outcome]]) -> None:
        """Be one worker, for ever. A cancelled pass leaves its key in the queue."""
        while True:
            key = await self._take()
            outcome: Outcome = Done(requeue_after=0.0)
            try:
                outcome = await run(key)
            finally:
                self._schedule.finish(key, outcome, _now())
                self._changed.set()

    async def _take(self) -> Key:
        while True:
            key = self._schedule.take(_now())
            if key is not None:
                return key
            self._changed.clear()
            await self._wait(self._schedule.next_at())

    async def _wait(self, until: float | None) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return


def _now() -> float:
    return asyncio.get_running_loop().time()
