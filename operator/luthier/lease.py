"""One of several replicas acts: a coordination Lease, 12/7/2 s, on the monotonic clock.

Wall clocks are written for people and never compared: what counts is how long ago, on our own clock, we saw the
record change. The holder stops before others may start: at 7 s without a renewal its work is cancelled and awaited,
and from the same moment `may_write` refuses, so that a write (4 s at most) ends before the 12 s are over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from luthier.errors import Conflict, LuthierError, describe
from luthier.kube import Kube
from luthier.plan import Json
from luthier.resources import LEASE

log = logging.getLogger(__name__)

LEASE_SECONDS = 12.0
"""With the two seconds between two looks at it, another replica leads within 15 s of a death."""
RENEW_WITHIN_SECONDS = 7.0
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 2.0

Clock = Callable[[], float]


class Hold:
    """What one replica knows of the Lease: pure bookkeeping on a given clock."""

    def __init__(self, identity: str, *, clock: Clock = time.monotonic) -> None:
        self._identity = identity
        self._clock = clock
        self._seen: tuple[str, float] | None = None
        """The record's version, and when it was first seen so."""
        self._renewed_at: float | None = None

    def is_held(self) -> bool:
        """Say whether the Lease is ours and was renewed within 7 s: then work goes on, and writes may start."""
        return self._renewed_at is not None and self._clock() - self._renewed_at < RENEW_WITHIN_SECONDS

    def seconds_left(self) -> float:
        """Return how long work may go on."""
        return RENEW_WITHIN_SECONDS - (self._clock() - self._renewed_at) if self._renewed_at is not None else 0.0

    def may_take(self, lease: Json | None) -> bool:
        """Say whether a record that was just read is ours or free to take."""
        if lease is None:
            return True
        spec = lease.get("spec", {})
        if spec.get("holderIdentity") in (None, "", self._identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] >= float(spec.get("leaseDurationSeconds", LEASE_SECONDS))

    def renewed(self, asked_at: float) -> None:
        """Note a renewal, as of when it was asked for."""
        self._renewed_at = asked_at

    def lost(self) -> None:
        """Note that the Lease is somebody else's, or given back."""
        self._renewed_at = None


class Elector:
    """Holds the Lease when it can, and lets `lead` run exactly while it does."""

    def __init__(self, kube: Kube, *, namespace: str, name: str, identity: str, clock: Clock = time.monotonic) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._record: Json | None = None
        self.hold = Hold(identity, clock=clock)
        self.holder = ""
        """Who holds it, as last read."""

    def may_write(self) -> bool:
        """Say whether a write may start now: the Lease is ours, with 5 s left at least."""
        return self.hold.is_held()

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Take part until cancelled; then the work ends first, and the Lease is given back."""
        try:
            while True:
                while not await self._try():
                    await asyncio.sleep(RETRY_SECONDS)
                log.info("this replica leads", extra={"identity": self._identity})
                await self._lead(lead)
                log.warning("this replica leads no more", extra={"identity": self._identity})
        finally:
            await self._release()

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        try:
            while self.hold.is_held() and not work.done():
                await asyncio.wait({work}, timeout=min(RETRY_SECONDS, max(self.hold.seconds_left(), 0.0)))
                if not work.done() and self.hold.is_held():
                    await self._try()
        finally:
            work.cancel()
            await asyncio.wait({work})
            self.hold.lost()
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _try(self) -> bool:
        """Take or renew the Lease once; a failure changes nothing but the time that passes."""
        asked_at = self._clock()
        limit = min(REQUEST_SECONDS, self.hold.seconds_left()) if self.hold.is_held() else REQUEST_SECONDS
        try:
            async with asyncio.timeout(limit):
                renewed = await self._take()
        except (LuthierError, TimeoutError) as error:
            self._record = None  # what is there now, nobody here knows
            log.warning("the Lease could not be taken or renewed: %s", describe(error))
            return False
        if renewed:
            self.hold.renewed(asked_at)
        else:
            self.hold.lost()
        return renewed

    async def _take(self) -> bool:
        lease = self._record or await self._kube.get(LEASE, self._namespace, self._name)
        self.holder = (lease or {}).get("spec", {}).get("holderIdentity") or ""
        if not self.hold.may_take(lease):
            return False
        try:
            wanted = self._wanted(lease)
            self._record = await (self._kube.create(wanted) if lease is None else self._kube.replace(wanted))
        except Conflict:
            self._record = None
            return False if not self.hold.is_held() else await self._take_again()
        self.holder = self._identity
        return True

    async def _take_again(self) -> bool:
        """Look who was faster: an earlier write of our own whose reply was lost, or a usurper."""
        lease = await self._kube.get(LEASE, self._namespace, self._name)
        if lease is None or lease.get("spec", {}).get("holderIdentity") != self._identity:
            return False
        self._record = await self._kube.replace(self._wanted(lease))
        return True

    def _wanted(self, lease: Json | None) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (lease or {}).get("spec", {})
        is_ours = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "acquireTime": old.get("acquireTime", now) if is_ours else now,
            "renewTime": now,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if is_ours or lease is None else 1),
        }
        return self._manifest(lease, spec)

    def _manifest(self, lease: Json | None, spec: Json) -> Json:
        metadata = {"name": self._name, "namespace": self._namespace}
        if lease is not None:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    async def _release(self) -> None:
        """Empty the record, so that the next replica need not wait; without an answer, it waits."""
        if self._record is None or self.holder != self._identity:
            return
        spec = {**self._record["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._kube.replace(self._manifest(self._record, spec))
        except (LuthierError, TimeoutError) as error:
            log.warning("the Lease could not be given back: %s", describe(error))
