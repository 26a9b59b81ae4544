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
from luthier.api.finetunejob import ArtifactStatus, DatasetStatus, FineTuneJobStatus, Lineage, Progress
from luthier.draft import Draft
from luthier.finetune.build import PREPARE_CONTAINER, digest_training, find_places
from luthier.finetune.run import Run, await_result, find_attempt, judge, preparation_step, training_step
from luthier.jobs import MAX_INFRASTRUCTURE_LOSSES, Ending, Outcome
from luthier.plan import Plan, Ref
from luthier.volumes import uri_of
from luthier_trainer.config import PrepareDetails, TrainDetails

DetailsT = TypeVar("DetailsT", bound=BaseModel)


def record_preparation(run: Run) -> Plan | None:
    """Write what the data Job found; a broken data set ends the run."""
    job = run.seen.prepare_jobs[-1] if run.seen.prepare_jobs else None
    if run.status.dataset is not None or job is None:
        return None
    step = preparation_step(run, job)
    ending = judge(run, step)
    if ending is None:
        return None
    if ending.outcome == Outcome.RESULT_LOST:
        return await_result(run, step)
    if ending.outcome == Outcome.SUCCEEDED:
        return _prepared(run, ending)
    if ending.final or (ending.result is not None and jobs.is_refusal(ending.result)):
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
        findings=[finding[:256] for finding in details.findings[:3]],
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
        return reuse(draft.put(artifact=artifact)).plan(status_first=True)
    draft = draft.event("Normal", Reason.PREPARED, message)
    return draft.working(Reason.PREPARED, message).plan(status_first=True, requeue_after=0)


def reuse(draft: Draft[FineTuneJobStatus]) -> Draft[FineTuneJobStatus]:
    """Say that nothing had to be trained."""
    uri = draft.status.artifact.uri if draft.status.artifact else ""
    return draft.succeeded(
        Reason.REUSED, f"a complete artifact of exactly these inputs is at {uri}; nothing was trained"
    )


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
    step = training_step(run, job)
    ending = judge(run, step)
    if ending is None:
        return None
    if ending.outcome == Outcome.RESULT_LOST:
        return await_result(run, step)
    return _trained(run, ending) if ending.outcome == Outcome.SUCCEEDED else _attempt_failed(run, ending)


def _trained(run: Run, ending: Ending) -> Plan:
    details = _parse_details(TrainDetails, ending)
    if details is None:
        return _attempt_failed(run, jobs.result_missing(ending.ended_at))
    found = details.artifact
    artifact = _artifact(run, path=found.path, digest=found.digest, base_digest=found.base_digest)
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
    return finish(run.draft.put(artifact=artifact, progress=progress)).plan()


def finish(draft: Draft[FineTuneJobStatus]) -> Draft[FineTuneJobStatus]:
    """Say that training made an artifact."""
    artifact = draft.status.artifact
    message = f"the adapter {artifact.digest} is at {artifact.uri}" if artifact else ""
    draft = draft.say(ConditionType.TRAINING, "False", Reason.SUCCEEDED, message)
    return draft.succeeded(Reason.SUCCEEDED, message)


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
