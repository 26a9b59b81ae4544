"""A step's result when its pod is gone: a small CPU Job reads the result file and reports it again. Pure.

For the kinds that run steps (FineTuneJob, Evaluation). A result is never guessed: where the file holds none either,
the step has failed. Only a report Job that says so proves it: one that ends without a word is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from luthier import jobs
from luthier.api.base import Resources, Scheduling
from luthier.api.conditions import Reason
from luthier.draft import Draft, StatusT
from luthier.jobs import Ending, Outcome
from luthier.plan import Json, Manifest, Plan
from luthier.podspec import build_container, build_job, build_pod_spec
from luthier.settings import Settings
from luthier.volumes import Location, claim_mounts, claim_volumes, scratch_mounts, scratch_volumes
from luthier_trainer.config import CONFIG_ENV, ReportConfig

REPORT_ROLE: Final = "report"
REPORT_CONTAINER: Final = "report"
STEP_LABEL: Final = "luthier.dev/step"
"""On a report Job: the step whose result it reads, for example `train-2`."""
_AGAIN_AFTER: Final = timedelta(seconds=30)
_GRACE_SECONDS: Final = 30


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step that has run: its name, its Job, and where it left its result."""

    name: str
    job: Json
    container: str
    result: Location


def build_report_job(
    owner: Json, *, step: str, result: Location, settings: Settings, scheduling: Scheduling | None
) -> Manifest:
    """Return the Job that reads a step's result file."""
    container = build_container(
        name=REPORT_CONTAINER,
        image=settings.trainer_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_trainer", "report"],
        env={CONFIG_ENV: ReportConfig(result_path=result.container_path).model_dump_json(), "HOME": "/tmp"},
        resources=Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"cpu": "500m", "memory": "512Mi"}),
        mounts=[*claim_mounts([result.claim]), *scratch_mounts()],
    )
    return build_job(
        owner,
        f"report-{step}",
        role=REPORT_ROLE,
        labels={STEP_LABEL: step},
        failure_rules=jobs.failure_rules(REPORT_CONTAINER),
        pod_spec=build_pod_spec(
            containers=[container],
            volumes=[*claim_volumes([result.claim]), *scratch_volumes()],
            scheduling=scheduling,
            grace_seconds=_GRACE_SECONDS,
        ),
    )


def judge_step(step: Step, *, pods: Sequence[Json], reports: Sequence[Json]) -> Ending | None:
    """Return how a step ended, by its own message or by its report Job's; None while it runs.

    `ResultLost` means: its result is still to be read again (`await_report`).
    """
    ending = jobs.judge_job(step.job, pods, container=step.container)
    report = find_report(step, reports)
    if ending is None or ending.outcome != Outcome.RESULT_LOST or report is None:
        return ending
    again = jobs.judge_job(report, pods, container=REPORT_CONTAINER)
    if again is None or again.result is None or again.outcome == Outcome.INFRASTRUCTURE:
        return ending
    if again.outcome == Outcome.SUCCEEDED:
        return replace(again, ended_at=ending.ended_at)
    return jobs.result_missing(ending.ended_at)


def find_report(step: Step, reports: Sequence[Json]) -> Json | None:
    """Return the Job that reads this step's result again, or None."""
    return next((job for job in reports if job["metadata"]["labels"].get(STEP_LABEL) == step.name), None)


def await_report(
    draft: Draft[StatusT],
    step: Step,
    *,
    pods: Sequence[Json],
    reports: Sequence[Json],
    settings: Settings,
    scheduling: Scheduling | None,
    now: datetime,
) -> Plan:
    """Make the report Job, or wait for it. One that ended without a word goes, and the next pass makes another."""
    message = f"the result of step {step.name} is read from storage again"
    report = find_report(step, reports)
    ending = jobs.judge_job(report, pods, container=REPORT_CONTAINER) if report is not None else None
    if ending is not None:
        message = f"{message}; the last try ended early ({ending.reason}: {ending.message})"
    draft = draft.working(Reason.RESULT_LOST, message)
    if report is None:
        job = build_report_job(draft.obj, step=step.name, result=step.result, settings=settings, scheduling=scheduling)
        return draft.plan(apply=(job,))
    if jobs.is_deleting(report):
        return draft.plan(requeue_after=_AGAIN_AFTER.total_seconds())
    due = (ending.ended_at if ending is not None else now) + _AGAIN_AFTER
    if now >= due or any(jobs.is_stuck(pod, now) for pod in jobs.pods_of(report, pods)):
        return draft.plan(delete=(jobs.reference(report),), requeue_after=1)
    return draft.plan(requeue_after=(due - now).total_seconds())
