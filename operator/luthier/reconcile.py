"""The shell around the three kinds: observe, decide, apply; and the only place where errors become retries.

| what happened                    | what follows                                                                   |
|----------------------------------|--------------------------------------------------------------------------------|
| InvalidSpec, NameConflict        | Stalled; the next event or the ten-minute list looks again                     |
| Conflict                         | the object is read again, then a new pass                                      |
| Throttled                        | not before the server said                                                     |
| another 4xx, a 500 that says no  | Reconciling with what the server said, an event, back-off                      |
| 5xx, no answer                   | back-off; told like a 4xx when it has lasted for a minute (`Outages`)          |
| NotLeader                        | nothing: the next leader does it                                               |
| anything else, a bug             | logged with traceback, Reconciling/InternalError, back-off; others go on       |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from luthier import status
from luthier.api.conditions import Reason
from luthier.children import Children
from luthier.errors import (
    ApiError,
    Conflict,
    InvalidSpec,
    LuthierError,
    NameConflict,
    NotFound,
    NotLeader,
    Throttled,
    Unreachable,
)
from luthier.events import EventLog
from luthier.kube import Kube
from luthier.metrics import Metrics
from luthier.own import OwnCache
from luthier.plan import Call, Event, Json, Key, Plan
from luthier.ports import Controller, Ports
from luthier.resources import BY_KIND
from luthier.router import Router
from luthier.workqueue import Done, Outcome, Retry

log = logging.getLogger(__name__)

PASS_SECONDS = 60.0
"""A pass that takes longer hangs on something: it ends, and backs off."""
LASTING_SECONDS = 60.0
"""A server that fails for so long at one object has not stumbled: people are told, if they can be."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an error means: for the object's status, and for the queue."""

    outcome: Outcome
    mark: Literal["Stalled", "Reconciling"] | None = None
    reason: str = ""
    message: str = ""


class Reconciler:
    """Runs one pass over one object."""

    def __init__(
        self,
        controllers: Mapping[str, Controller[Any]],
        *,
        ports: Ports,
        own: OwnCache,
        kube: Kube,
        children: Children,
        router: Router,
        events: EventLog,
        metrics: Metrics,
        calls: Callable[[Key, Sequence[Call]], None] = lambda key, calls: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controllers = controllers
        self._ports = ports
        self._own = own
        self._kube = kube
        self._children = children
        self._router = router
        self._events = events
        self._metrics = metrics
        self._calls = calls
        self._clock = clock
        self._outages = Outages(monotonic)

    async def run(self, key: Key) -> Outcome:
        """Do one pass; every error ends here."""
        began = time.perf_counter()
        obj = self._own.get(key)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            self._own.references.set(key, ())
            self._outages.end(key)
            self._calls(key, ())
            return Done()  # its children go with it, by their owner references
        try:
            async with asyncio.timeout(PASS_SECONDS):
                outcome: Outcome = await self._pass(key, obj)
            self._outages.end(key)
            result = "ok"
        except Exception as error:  # the one place: see the table above
            outcome, result = await self._failed(key, obj, error), type(error).__name__
        self._metrics.reconciles.labels(key.kind, result).inc()
        self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - began)
        return outcome

    async def _pass(self, key: Key, obj: Json) -> Done:
        controller = self._controllers[key.kind]
        self._own.references.set(key, controller.references(obj))
        observed = await controller.observe(obj, replace(self._ports, now=self._clock()))
        plan = controller.decide(obj, observed)
        if plan.status_first:
            obj = await self._write_status(obj, plan.status)
        wait = await self._apply(plan)
        refusal = await self._apply_extras(plan)
        if refusal is not None and not plan.status_first:
            plan = with_refusal(obj, plan, judge(refusal), self._clock())
        if not plan.status_first:
            obj = await self._write_status(obj, plan.status)
        await self._post(obj, plan.events)
        self._calls(key, plan.calls)
        if refusal is not None:
            raise refusal
        waits = [seconds for seconds in (plan.requeue_after, wait) if seconds is not None]
        return Done(requeue_after=min(waits, default=None))

    async def _apply(self, plan: Plan) -> float | None:
        """Write children and route; return in how many seconds the route has to be written on, if it has."""
        wait = None
        # Who gains traffic needs pods and a Service first; who loses it must not wait for a write that may be refused.
        if not plan.status_first and plan.traffic is not None:
            wait = await self._router.write(plan.traffic)
        for manifest in plan.apply:
            await self._children.ensure(manifest)
        if plan.status_first and plan.traffic is not None:
            wait = await self._router.write(plan.traffic)
        for ref in plan.delete:
            await self._children.delete(ref)
        return wait

    async def _apply_extras(self, plan: Plan) -> ApiError | NameConflict | None:
        """Write what may be refused, and return the first refusal."""
        try:
            for manifest in plan.extras:
                await self._children.ensure(manifest)
        except NameConflict as error:
            return error
        except ApiError as error:
            if not error.is_refusal or isinstance(error, Conflict | Throttled):
                raise
            return error
        return None

    async def _write_status(self, obj: Json, wanted: Json) -> Json:
        """Write a status when it differs, refused when the object is not the one that was decided on."""
        if wanted == obj.get("status", {}):
            return obj
        written = await self._kube.replace({**obj, "status": wanted}, subresource="status")
        self._own.wrote(written)
        return written

    async def _post(self, obj: Json, events: tuple[Event, ...]) -> None:
        """Tell people; what they can read in the status anyway never fails a pass."""
        for event in events:
            try:
                await self._kube.apply(self._events.record(obj, event, self._clock()))
            except (ApiError, Unreachable) as error:
                self._metrics.events_lost.inc()
                log.warning("event not posted: %s", error)

    async def _failed(self, key: Key, obj: Json, error: Exception) -> Outcome:
        verdict = self._outages.judge(key, error)
        detail = f"{type(error).__name__}: {error}"
        if verdict.reason == Reason.INTERNAL_ERROR:
            log.error("pass failed", extra={"key": str(key)}, exc_info=error)
        elif not isinstance(error, NotLeader):
            log.warning("pass ended early: %s", detail, extra={"key": str(key)})
        try:
            if isinstance(error, Conflict | NotFound) and not await self._refresh(key, obj):
                return Done()  # deleted, and the watch has not told: nothing more is made for it
            if verdict.mark is not None:
                await self._say(obj, verdict)
        except LuthierError as second:
            log.warning("the error could not be told: %s", second, extra={"key": str(key)})
            return verdict.outcome if isinstance(verdict.outcome, Retry) else Retry()
        return verdict.outcome

    async def _refresh(self, key: Key, old: Json) -> bool:
        """Read the object again; say whether there still is one."""
        obj = await self._kube.get(BY_KIND[key.kind], key.namespace, key.name)
        if obj is None:
            self._own.saw("DELETED", old)
        else:
            self._own.wrote(obj)
        return obj is not None

    async def _say(self, obj: Json, verdict: Verdict) -> None:
        """Put an error into the newest status that is known, and post it once when it is new."""
        key = Key(kind=obj["kind"], namespace=obj["metadata"]["namespace"], name=obj["metadata"]["name"])
        obj = self._own.get(key) or obj  # the pass may have written a status already
        if has_ended(obj):
            return
        written = await self._write_status(obj, told(obj, verdict, self._clock()))
        if written is not obj:
            event = Event(type="Warning", reason=verdict.reason, message=verdict.message)
            await self._post(written, (event,))


def judge(error: Exception) -> Verdict:
    """Map an error to what follows: the only such place."""
    match error:
        case InvalidSpec():
            return Verdict(outcome=Done(), mark="Stalled", reason=error.reason, message=str(error))
        case NameConflict():
            return Verdict(outcome=Done(), mark="Stalled", reason=Reason.NAME_CONFLICT, message=str(error))
        case Throttled():
            return Verdict(outcome=Retry(not_before_seconds=error.retry_after or 1.0))
        case Conflict() | NotLeader() | Unreachable():
            return Verdict(outcome=Retry())
        case ApiError() if error.is_refusal:
            message = f"the API server refuses a write: {error.message}"
            return Verdict(outcome=Retry(), mark="Reconciling", reason=Reason.REFUSED, message=message)
        case ApiError():
            return Verdict(outcome=Retry())
    message = f"{type(error).__name__}: {error}; it is tried again, and the operator's log has more"
    return Verdict(outcome=Retry(), mark="Reconciling", reason=Reason.INTERNAL_ERROR, message=message)


class Outages:
    """Since when the API server has failed at each object. In memory only: it decides nothing, and begins anew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[Key, float] = {}

    def judge(self, key: Key, error: Exception) -> Verdict:
        """Map an error as `judge` does; a failure of the server that lasts is told like a refusal."""
        verdict = judge(error)
        if verdict.mark is not None or not isinstance(error, ApiError | Unreachable) or isinstance(error, Conflict):
            return verdict
        now = self._clock()
        if now - self._since.setdefault(key, now) < LASTING_SECONDS:
            return verdict
        message = f"the API server has failed at this object for more than a minute: {error}"
        return replace(verdict, mark="Reconciling", reason=Reason.REFUSED, message=message)

    def end(self, key: Key) -> None:
        """Take a pass that ended well, or the end of the object."""
        self._since.pop(key, None)


def told(obj: Json, verdict: Verdict, now: datetime) -> Json:
    """Return an object's status with an error in its conditions; all else stays as it was last decided."""
    old: Json = obj.get("status", {})
    generation = obj["metadata"]["generation"]
    mark = status.mark_stalled if verdict.mark == "Stalled" else status.mark_reconciling
    said = {"reason": verdict.reason, "message": verdict.message, "generation": generation, "now": now}
    conditions = status.summarize(mark(old.get("conditions", []), **said), kind=obj["kind"], **said)
    return {**old, "observedGeneration": generation, "conditions": conditions}


def with_refusal(obj: Json, plan: Plan, verdict: Verdict, now: datetime) -> Plan:
    """Return a plan whose status says too that an extra was refused; the event about it goes out when that is new."""
    wanted = told({**obj, "status": plan.status}, verdict, now)
    before, after = (
        status.find_condition(s.get("conditions", []), verdict.mark or "") for s in (obj.get("status", {}), wanted)
    )
    is_new = before is None or after is None or before["message"] != after["message"]
    event = Event(type="Warning", reason=verdict.reason, message=verdict.message)
    return replace(plan, status=wanted, events=(*plan.events, *([event] if is_new else [])))


def has_ended(obj: Json) -> bool:
    """Say whether a run is over: an error of ours must not make it look unfinished.

    Stalled alone does not say so: it may stand for an error of ours, which may pass.
    """
    return "completionTime" in obj.get("status", {})
