"""The steps that FineTuneJob and Evaluation have in common, and their rest after the end: pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from luthier import jobs
from luthier.api.conditions import ConditionType, Reason
from luthier.api.evaluation import EvaluationSpec
from luthier.api.finetunejob import FineTuneJobSpec
from luthier.draft import Draft
from luthier.plan import Json, Plan
from luthier.status import find_condition, format_time

LOOK_AGAIN_SECONDS: Final = 15.0
WAIT_SECONDS: Final = 30.0


class Seen(Protocol):
    """What both kinds observe."""

    @property
    def now(self) -> datetime: ...
    @property
    def missing_claims(self) -> Sequence[str]: ...
    @property
    def jobs(self) -> Sequence[Json]: ...
    @property
    def pods(self) -> Sequence[Json]: ...


class Run(Protocol):
    """One pass over an object of either kind."""

    @property
    def obj(self) -> Json: ...
    @property
    def spec(self) -> FineTuneJobSpec | EvaluationSpec: ...
    @property
    def seen(self) -> Seen: ...
    @property
    def draft(self) -> Draft[Any]: ...


def rest(run: Run) -> Plan:
    """Terminal is terminal: only leftovers are removed, and Jobs once their time is up."""
    ended: datetime = run.draft.status.completion_time
    ttl = run.spec.ttl_seconds_after_finished
    draft = run.draft.again()
    left = [job for job in run.seen.jobs if not jobs.is_deleting(job)]
    due = ended + timedelta(seconds=ttl) if ttl is not None else None
    if due is not None and run.seen.now >= due:
        return draft.plan(delete=tuple(jobs.reference(job) for job in left))
    running = tuple(jobs.reference(job) for job in left if jobs.is_running(job))
    wait = (due - run.seen.now).total_seconds() if due is not None and left else None
    return draft.plan(delete=running, requeue_after=wait)


def await_stopping(run: Run) -> Plan | None:
    """Wait for the pods of earlier Jobs: two writers of one folder would be one too many."""
    if any(jobs.is_running(job) for job in run.seen.jobs):
        return None
    stopping = [p for p in run.seen.pods if not jobs.is_ended(p) and not jobs.is_stuck(p, run.seen.now)]
    if not stopping:
        return None
    message = f"waits for pod {stopping[0]['metadata']['name']} to stop"
    return run.draft.working(Reason.PENDING, message).plan(requeue_after=LOOK_AGAIN_SECONDS)


def await_claims(run: Run) -> Plan | None:
    """Wait for claims without end: GitOps applies in any order."""
    if not run.seen.missing_claims:
        return None
    names, namespace = ", ".join(run.seen.missing_claims), run.obj["metadata"]["namespace"]
    text = f"PersistentVolumeClaim {names} does not exist in namespace {namespace}"
    return await_object(run, Reason.WAITING_FOR_PVC, text, way_out="; create it, or correct its name in a new object")


def await_object(run: Run, reason: Reason, text: str, *, way_out: str = "") -> Plan:
    """Say what is awaited, and since when: that stays while the text does, or the message were new at each look."""
    found = find_condition(run.draft.conditions, ConditionType.RECONCILING)
    if found is not None and found["reason"] == reason and found["message"].startswith(f"{text} (since "):
        message = found["message"]
    else:
        message = f"{text} (since {format_time(run.seen.now)}){way_out}"
    return run.draft.working(reason, message).plan(requeue_after=WAIT_SECONDS)
