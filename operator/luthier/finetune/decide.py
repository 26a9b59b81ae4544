"""What a FineTuneJob does next: pure.

The life is the list `STEPS`: the first one that has something to do makes the plan. Endings are recorded before
anything else is decided, so that a finished step is in status before the next child is made, and never runs again.

    claims ──► data Job ──► attempt 1 ──► … attempt n ──► artifact
                  │             └─ lost: pause, n+1; own fault: n+1 up to backoffLimit; suspend: stop, n+1 later
                  └─ the artifact is already there: Reused
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from luthier import jobs
from luthier.api.conditions import ConditionType, Reason
from luthier.api.finetunejob import Lineage, Progress
from luthier.finetune.build import build_prepare_job, build_train_job
from luthier.finetune.check import check_spec
from luthier.finetune.endings import (
    losses_in_a_row,
    number_text,
    record_attempt,
    record_preparation,
    stopped,
)
from luthier.finetune.observe import Observed
from luthier.finetune.run import Run, find_attempt, start_run
from luthier.jobs import Outcome
from luthier.plan import Json, Plan
from luthier.status import find_condition, parse_time
from luthier.steps import LOOK_AGAIN_SECONDS, WAIT_SECONDS, await_claims, await_stopping, rest
from luthier_trainer.config import ProgressReport

PROGRESS_EVERY: Final = timedelta(seconds=30)
"""At most one status write for progress in this time; a new phase is written at once."""
_PHASES: Final = {
    "Loading": "loads the model",
    "Training": "trains",
    "Publishing": "publishes the artifact",
    "Done": "publishes the artifact",
}


def decide(obj: Json, seen: Observed) -> Plan:
    """Return what this pass does.

    Raises:
        InvalidSpec: Nothing runs, and what is asked for can never work.
    """
    run = start_run(obj, seen)
    if run.status.completion_time is not None:
        return rest(run)
    for step in STEPS:
        plan = step(run)
        if plan is not None:
            return plan
    return start_attempt(run)


# Waiting


def suspend(run: Run) -> Plan | None:
    """Stop whatever runs: SIGTERM, checkpoint, gone. Nothing new is made until spec.suspend is false."""
    if not run.spec.suspend:
        return None
    running = tuple(jobs.reference(job, foreground=True) for job in run.seen.jobs if jobs.is_running(job))
    return stopped(run, delete=running)


def refuse(run: Run) -> None:
    """Refuse what can never work while nothing runs.

    What runs was made by the rules and the defaults of its day, and ends by them: its result counts.

    Raises:
        InvalidSpec: With the field and the way out.
    """
    if not any(map(jobs.is_running, run.seen.jobs)):
        check_spec(run.obj, run.spec, run.seen.settings)


def back_off(run: Run) -> Plan | None:
    """Pause between attempts. The time of the loss is the Training condition's: it survives the operator."""
    last = run.last_attempt
    if last is None or last.outcome not in (Outcome.USER_ERROR, Outcome.INFRASTRUCTURE):
        return None
    condition = find_condition(run.draft.conditions, ConditionType.TRAINING)
    if condition is None or condition["reason"] != Reason.RETRYING:
        return None
    pause = timedelta(seconds=jobs.back_off_seconds(losses_in_a_row(run)))
    due = parse_time(condition["lastTransitionTime"]) + pause
    if run.seen.now >= due:
        return None
    draft = run.draft.working(Reason.RETRYING, condition["message"])
    return draft.plan(requeue_after=(due - run.seen.now).total_seconds())


# Work


def prepare(run: Run) -> Plan | None:
    """Make the data Job, or show that it runs."""
    if run.status.dataset is not None:
        return None
    latest = run.seen.prepare_jobs[-1] if run.seen.prepare_jobs else None
    if latest is not None and jobs.is_running(latest):
        return _watch_preparation(run, latest)
    number = jobs.attempt_of(latest) + 1 if latest is not None else 1
    job = build_prepare_job(run.obj, run.spec, run.seen.settings, number=number)
    message = f"Job {job['metadata']['name']} validates and renders the data"
    draft = run.draft.say(ConditionType.DATASET_READY, "False", Reason.PREPARING, message)
    return draft.working(Reason.PREPARING, message).plan(apply=(job,))


def _watch_preparation(run: Run, job: Json) -> Plan:
    pods = jobs.pods_of(job, run.seen.pods)
    if any(jobs.is_stuck(pod, run.seen.now) for pod in pods):
        message = jobs.node_lost(run.seen.now).message
        return run.draft.working(Reason.RETRYING, message).plan(delete=(jobs.reference(job),), requeue_after=1)
    message = f"Job {job['metadata']['name']} validates and renders the data"
    draft = run.draft.say(ConditionType.DATASET_READY, "False", Reason.PREPARING, message)
    pending = jobs.explain_pod(jobs.newest_pod(pods))
    if pending is not None:
        return draft.working(Reason.PENDING, f"Job {job['metadata']['name']}: {pending}").plan(
            requeue_after=WAIT_SECONDS
        )
    return draft.working(Reason.PREPARING, message).plan(requeue_after=WAIT_SECONDS)


def watch_attempt(run: Run) -> Plan | None:
    """Show how far the running attempt is."""
    job = find_attempt(run)
    if job is None or run.last_attempt is None or run.last_attempt.outcome != "Running":
        return None
    number = run.last_attempt.number
    pending = jobs.explain_pod(jobs.newest_pod(jobs.pods_of(job, run.seen.pods)))
    if pending is not None:
        message = f"attempt {number}: {pending}"
        draft = run.draft.say(ConditionType.TRAINING, "False", Reason.PENDING, message)
        return draft.working(Reason.PENDING, message).plan(requeue_after=WAIT_SECONDS)
    report = run.seen.progress
    message = f"attempt {number} {_PHASES[report.phase]}" if report else _said_before(run, number)
    old = run.status.progress
    draft = run.draft.put(progress=_newer_progress(run, report, milestone=_is_new(run, message)))
    draft = draft.say(ConditionType.TRAINING, "True", Reason.RUNNING, message)
    if old is None and draft.status.progress is not None:
        draft = draft.event("Normal", Reason.RUNNING, message)
    return draft.working(Reason.TRAINING, message).plan(requeue_after=LOOK_AGAIN_SECONDS)


def start_attempt(run: Run) -> Plan:
    """Make the next training Job."""
    number = run.last_attempt.number + 1 if run.last_attempt else 1
    job = build_train_job(run.obj, run.spec, run.status, run.seen.settings, number=number)
    run = run.add_attempt(number, job["metadata"]["name"])
    lineage = (run.status.lineage or Lineage()).model_copy(update={"image": run.seen.settings.trainer_image})
    message = f"attempt {number} is Job {job['metadata']['name']}"
    draft = run.draft.put(lineage=lineage).event("Normal", Reason.TRAINING, message)
    draft = draft.say(ConditionType.TRAINING, "False", Reason.PENDING, f"attempt {number}: waits for its pod")
    draft = draft.working(Reason.PENDING, f"attempt {number}: waits for its pod")
    return draft.plan(apply=(job,), requeue_after=LOOK_AGAIN_SECONDS)


STEPS: Final = (
    record_preparation,
    record_attempt,
    suspend,
    await_stopping,
    refuse,
    await_claims,
    prepare,
    back_off,
    watch_attempt,
)


# Small parts


def _is_new(run: Run, message: str) -> bool:
    found = find_condition(run.draft.conditions, ConditionType.TRAINING)
    return found is None or found["message"] != message


def _said_before(run: Run, number: int) -> str:
    """Return the running attempt's message while its pod does not answer: nothing new is known."""
    found = find_condition(run.draft.conditions, ConditionType.TRAINING)
    if found is not None and found["reason"] == Reason.RUNNING:
        return str(found["message"])
    return f"attempt {number} {_PHASES['Loading']}"


def _newer_progress(run: Run, report: ProgressReport | None, *, milestone: bool) -> Progress | None:
    old = run.status.progress
    if report is None:
        return old
    fresh = old is not None and old.last_updated is not None and run.seen.now - old.last_updated < PROGRESS_EVERY
    if fresh and not milestone:
        return old
    return Progress(
        step=report.step,
        of=report.of,
        percent=min(100, 100 * report.step // report.of) if report.of else 0,
        epoch=number_text(report.epoch),
        loss=number_text(report.loss),
        validation_loss=number_text(report.validation_loss),
        tokens_per_second=number_text(report.tokens_per_second),
        estimated_remaining_seconds=report.estimated_remaining_seconds,
        last_updated=run.seen.now.replace(microsecond=0),
    )
