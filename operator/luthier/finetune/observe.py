"""All that a FineTuneJob's decision needs, read into one value. Chooses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from luthier import jobs
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.draft import read_spec
from luthier.finetune.build import PREPARE_ROLE, TRAIN_ROLE, find_places
from luthier.lookup import confirm_job, find_missing_claims
from luthier.plan import Json
from luthier.ports import Ports
from luthier.report import REPORT_ROLE
from luthier.resources import JOB, POD
from luthier.settings import Settings
from luthier_trainer.config import PROGRESS_PORT, ProgressReport


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is, at one time. Jobs are in order of attempt."""

    now: datetime
    settings: Settings
    missing_claims: tuple[str, ...] = ()
    prepare_jobs: tuple[Json, ...] = ()
    train_jobs: tuple[Json, ...] = ()
    report_jobs: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    progress: ProgressReport | None = None

    @property
    def jobs(self) -> tuple[Json, ...]:
        return (*self.prepare_jobs, *self.train_jobs, *self.report_jobs)


async def observe(obj: Json, ports: Ports) -> Observed:
    """Read Jobs and pods from the store, claims from the API server, progress from the running pod."""
    spec = read_spec(FineTuneJobSpec, obj)
    status = FineTuneJobStatus.model_validate(obj.get("status", {}))
    uid = obj["metadata"]["uid"]
    pods = jobs.own_pods(obj, ports.children.owned(uid, POD))
    found = ports.children.owned(uid, JOB)
    if status.attempts and status.attempts[-1].outcome == "Running":
        found = await confirm_job(obj, found, status.attempts[-1].job, ports)
    by_role = {role: jobs.with_role(found, role) for role in (PREPARE_ROLE, TRAIN_ROLE, REPORT_ROLE)}
    ended = status.completion_time is not None
    idle = not ended and not any(map(jobs.is_running, found))
    return Observed(
        now=ports.now,
        settings=ports.settings,
        missing_claims=await find_missing_claims(obj, find_places(obj, spec).claims, ports) if idle else (),
        prepare_jobs=by_role[PREPARE_ROLE],
        train_jobs=by_role[TRAIN_ROLE],
        report_jobs=by_role[REPORT_ROLE],
        pods=pods,
        progress=None if ended else await _read_progress(by_role[TRAIN_ROLE], pods, ports),
    )


async def _read_progress(train_jobs: tuple[Json, ...], pods: tuple[Json, ...], ports: Ports) -> ProgressReport | None:
    pod = jobs.newest_pod(jobs.pods_of(train_jobs[-1], pods)) if train_jobs else None
    status = (pod or {}).get("status", {})
    if status.get("phase") != "Running" or not status.get("podIP"):
        return None
    host = f"[{status['podIP']}]" if ":" in status["podIP"] else status["podIP"]
    reply = await ports.pods.json(f"http://{host}:{PROGRESS_PORT}/progress")
    try:
        return ProgressReport.model_validate(reply) if reply is not None else None
    except ValidationError:
        # For display only: an answer that makes no sense is no answer.
        return None
