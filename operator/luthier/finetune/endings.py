"""How the steps of a FineTuneJob ended, and what that decides: pure.

Endings are recorded before anything else: a finished step is in status before the next child is made.
What comes next while nothing has ended is for `decide`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from luthier import jobs
from luthier.api.conditions import ConditionType, Reason
from luthier.api.finetunejob import ArtifactStatus, DatasetStatus, Lineage, Progress
from luthier.finetune.build import (
    PREPARE_CONTAINER,
    PREPARE_ROLE,
    REPORT_CONTAINER,
    TRAIN_ROLE,
    TRAINER_CONTAINER,
    build_report_job,
    digest_training,
    find_places,
    step_name,
)
from luthier.finetune.run import Run, find_attempt, find_report, judge_step
from luthier.jobs import MAX_INFRASTRUCTURE_LOSSES, Ending, Outcome
from luthier.plan import Plan, Ref
from luthier.volumes import uri_of
from luthier_trainer.config import PrepareDetails, TrainDetails

DetailsT = TypeVar("DetailsT", bound=BaseModel)
_REPORT_AGAIN_AFTER = timedelta(seconds=30)


def record_preparation(run: Run) -> Plan | None:
    """Write what the data Job found; a broken data set ends the run."""
    job = run.seen.prepare_jobs[-1] if run.seen.prepare_jobs else None
    if run.status.dataset is not None or job is None:
        return None
    step = step_name(PREPARE_ROLE, jobs.attempt_of(job))
    ending = judge_step(run, job, step=step, container=PREPARE_CONTAINER)
    if ending is None:
        return _await_report(run, step) if jobs.is_finished(job) else None
    if ending.outcome == Outcome.RESULT_LOST:
        return _report_again(run, step, ending)
    if ending.outcome == Outcome.SUCCEEDED:
        return _prepared(run, ending)
    if ending.final or (ending.result is not None and ending.result.outcome == "UserError"):
        return _fail_preparation(run, ending.reason, ending.message, ending.field)
    return _give_up_preparing(run, ending)


def _prepared(run: Run, ending: Ending) -> Plan:
    details = _parse_details(PrepareDetails, ending)
    if details is None:
        return _fail_preparation(run, Reason.RESULT_MISSING, "the data Job's result is not one", None)
    places = find_places(run.obj, run.spec)
    dataset = DatasetStatus(
        digest=details.dataset_digest,
        rows=details.rows,
        train=details.train,
        validation=details.validation,
        test=details.test,
        duplicates=details.duplicates,
        too_long=details.too_long,
        train_tokens=details.train_tokens,
        max_length=details.max_length,
        report_uri=places.data.child("report.json").uri,
        test_uri=places.data.child("test.jsonl").uri,
    )
    lineage = Lineage(
        dataset_digest=details.dataset_digest,
        base_model_digest=details.base_digest,
        config_digest=digest_training(run.spec),
        image=run.seen.settings.trainer_image,
    )
    message = f"{details.train} rows to train on, {details.validation} to validate, {details.test} held out"
    draft = run.draft.put(dataset=dataset, lineage=lineage)
    draft = draft.say(ConditionType.DATASET_READY, "True", Reason.PREPARED, message)
    if (found := details.reused) is not None:
        artifact = _artifact(run, path=found.path, digest=found.digest, base_digest=found.base_digest)
        text = f"a complete artifact of exactly these inputs is at {artifact.uri}; nothing was trained"
        return draft.put(artifact=artifact).succeeded(Reason.REUSED, text).plan(status_first=True)
    draft = draft.event("Normal", Reason.PREPARED, message)
    return draft.working(Reason.PREPARED, message).plan(status_first=True, requeue_after=0)


def _fail_preparation(run: Run, reason: str, message: str, field: str | None) -> Plan:
    draft = run.draft.say(ConditionType.DATASET_READY, "False", reason, message)
    return draft.failed(reason, message, field=field).plan()


def _give_up_preparing(run: Run, last: Ending) -> Plan | None:
    """Count the data Jobs that are there: like an attempt of training, each may fail or be lost."""
    endings = [jobs.judge_job(job, run.seen.pods, container=PREPARE_CONTAINER) for job in run.seen.prepare_jobs]
    faults = sum(e is not None and e.outcome == Outcome.USER_ERROR for e in endings)
    losses = sum(e is not None and e.outcome == Outcome.INFRASTRUCTURE for e in endings)
    if faults > run.spec.backoff_limit:
        return _fail_preparation(run, Reason.BACKOFF_LIMIT_EXCEEDED, _exceeded(faults, "data Jobs", last), last.field)
    if losses > MAX_INFRASTRUCTURE_LOSSES:
        return _fail_preparation(run, Reason.TOO_MANY_LOSSES, _too_many(losses, last), None)
    due = last.ended_at + timedelta(seconds=jobs.back_off_seconds(faults + losses))
    if run.seen.now >= due or run.spec.suspend:
        return None
    message = f"the data Job ended early ({last.reason}: {last.message}); it is tried again after a pause"
    draft = run.draft.say(ConditionType.DATASET_READY, "False", Reason.RETRYING, message)
    return draft.working(Reason.RETRYING, message).plan(requeue_after=(due - run.seen.now).total_seconds())


def record_attempt(run: Run) -> Plan | None:
    """Write how the running attempt ended, and with it, where that decides, how the run ended."""
    if run.last_attempt is None or run.last_attempt.outcome != "Running":
        return None
    job = find_attempt(run)
    if job is None or (jobs.is_deleting(job) and not jobs.is_finished(job)):
        return stopped(run) if run.spec.suspend else _attempt_failed(run, jobs.job_deleted(run.seen.now))
    if any(jobs.is_stuck(pod, run.seen.now) for pod in jobs.pods_of(job, run.seen.pods)):
        return _attempt_failed(run, jobs.node_lost(run.seen.now), delete=(jobs.reference(job),))
    step = step_name(TRAIN_ROLE, run.last_attempt.number)
    ending = judge_step(run, job, step=step, container=TRAINER_CONTAINER)
    if ending is None:
        return _await_report(run, step) if jobs.is_finished(job) else None
    if ending.outcome == Outcome.RESULT_LOST:
        return _report_again(run, step, ending)
    return _trained(run, ending) if ending.outcome == Outcome.SUCCEEDED else _attempt_failed(run, ending)


def _trained(run: Run, ending: Ending) -> Plan:
    details = _parse_details(TrainDetails, ending)
    if details is None:
        return _attempt_failed(run, jobs.result_missing(ending.ended_at))
    found = details.artifact
    artifact = _artifact(run, path=found.path, digest=found.digest, base_digest=found.base_digest)
    message = f"the adapter {found.digest} is at {artifact.uri}"
    run = run.end_attempt(Outcome.SUCCEEDED, ending.message)
    progress = (run.status.progress or Progress()).model_copy(
        update={
            "step": details.steps,
            "of": details.steps,
            "percent": 100,
            "loss": number_text(details.loss),
            "validation_loss": number_text(details.validation_loss),
            "estimated_remaining_seconds": 0,
            "last_updated": run.seen.now.replace(microsecond=0),
        }
    )
    draft = run.draft.put(artifact=artifact, progress=progress)
    draft = draft.say(ConditionType.TRAINING, "False", Reason.SUCCEEDED, message)
    return draft.succeeded(Reason.SUCCEEDED, message).plan()


def _attempt_failed(run: Run, ending: Ending, *, delete: tuple[Ref, ...] = ()) -> Plan:
    """Write the attempt's end; then either another one follows, or the run has failed."""
    run = run.end_attempt(ending.outcome, f"{ending.reason}: {ending.message}")
    faults, losses = run.count(Outcome.USER_ERROR), run.count(Outcome.INFRASTRUCTURE)
    if ending.reason == Reason.RESULT_MISSING:
        return _fail_training(run, Reason.ARTIFACT_MISSING, ending.message, None)
    if ending.final:
        return _fail_training(run, ending.reason, ending.message, ending.field)
    if faults > run.spec.backoff_limit:
        message = _exceeded(faults, "training attempts", ending)
        return _fail_training(run, Reason.BACKOFF_LIMIT_EXCEEDED, message, ending.field)
    if losses > MAX_INFRASTRUCTURE_LOSSES:
        return _fail_training(run, Reason.TOO_MANY_LOSSES, _too_many(losses, ending), None)
    pause = jobs.back_off_seconds(losses_in_a_row(run))
    number = run.last_attempt.number if run.last_attempt else 0
    message = f"attempt {number} ended early ({ending.reason}: {ending.message}); the next one starts in {pause} s"
    draft = run.draft.event("Warning", ending.reason, message)
    draft = draft.say(ConditionType.TRAINING, "False", Reason.RETRYING, message)
    draft = draft.working(Reason.RETRYING, message)
    return draft.plan(delete=delete, status_first=True, requeue_after=pause)


def _fail_training(run: Run, reason: str, message: str, field: str | None) -> Plan:
    draft = run.draft.say(ConditionType.TRAINING, "False", reason, message)
    return draft.failed(reason, message, field=field).plan()


def _report_again(run: Run, step: str, ending: Ending) -> Plan:
    report = build_report_job(run.obj, run.spec, run.seen.settings, step=step)
    return run.draft.working(Reason.RESULT_LOST, ending.message).plan(apply=(report,))


def _await_report(run: Run, step: str) -> Plan:
    """Wait for the report Job. One that was lost itself is removed, so that the next pass makes another one."""
    draft = run.draft.working(Reason.RESULT_LOST, f"the result of step {step} is read from storage again")
    report = find_report(run, step)
    ending = jobs.judge_job(report, run.seen.pods, container=REPORT_CONTAINER) if report is not None else None
    if report is None or ending is None or jobs.is_deleting(report):
        return draft.plan(requeue_after=_REPORT_AGAIN_AFTER.total_seconds())
    wait = (ending.ended_at + _REPORT_AGAIN_AFTER - run.seen.now).total_seconds()
    return draft.plan(requeue_after=wait) if wait > 0 else draft.plan(delete=(jobs.reference(report),), requeue_after=1)


def stopped(run: Run, *, delete: tuple[Ref, ...] = ()) -> Plan:
    """Write that the run is suspended."""
    message = "spec.suspend is true; set it to false to go on from the last checkpoint"
    if run.last_attempt is not None and run.last_attempt.outcome == "Running":
        run = run.end_attempt("Suspended", "stopped by spec.suspend")
    draft = run.draft
    if draft.reason_of(ConditionType.SUCCEEDED) != Reason.SUSPENDED:
        draft = draft.event("Normal", Reason.SUSPENDED, message)
    shown = ConditionType.TRAINING if run.status.dataset is not None else ConditionType.DATASET_READY
    draft = draft.say(shown, "False", Reason.SUSPENDED, message)
    return draft.working(Reason.SUSPENDED, message).plan(delete=delete)


# Small parts


def losses_in_a_row(run: Run) -> int:
    """Return how many attempts in a row, up to the last one, ended early."""
    count = 0
    for attempt in reversed(run.status.attempts):
        if attempt.outcome not in (Outcome.USER_ERROR, Outcome.INFRASTRUCTURE):
            break
        count += 1
    return count


def number_text(value: float | None) -> str | None:
    """Return a measured number as the API has it: four digits, as text."""
    return f"{value:.4g}" if value is not None else None


def _parse_details(model: type[DetailsT], ending: Ending) -> DetailsT | None:
    try:
        return model.model_validate(ending.result.details) if ending.result is not None else None
    except ValidationError:
        return None


def _exceeded(faults: int, what: str, last: Ending) -> str:
    return f"{faults} {what} failed by their own errors, the last one with {last.reason}: {last.message}"


def _too_many(losses: int, last: Ending) -> str:
    return f"the platform took away {losses} attempts, the last one because {last.message}"


def _artifact(run: Run, *, path: str, digest: str, base_digest: str) -> ArtifactStatus:
    return ArtifactStatus(
        uri=uri_of(path), digest=digest, base_model_uri=run.spec.model.uri, base_model_digest=base_digest
    )
