"""All that a FineTuneJob's decision needs, read into one value. Chooses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from luthier import jobs
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.draft import read_spec
from luthier.finetune.build import PREPARE_ROLE, TRAIN_ROLE, find_places
from luthier.naming import ROLE_LABEL
from luthier.plan import Json
from luthier.ports import Ports
from luthier.report import REPORT_ROLE
from luthier.resources import JOB, POD, PVC
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
    found = await _confirm_running(obj, status, ports.children.owned(uid, JOB), ports)
    by_role = {role: _with_role(found, role) for role in (PREPARE_ROLE, TRAIN_ROLE, REPORT_ROLE)}
    ended = status.completion_time is not None
    return Observed(
        now=ports.now,
        settings=ports.settings,
        missing_claims=() if ended or any(map(jobs.is_running, found)) else await _missing_claims(obj, spec, ports),
        prepare_jobs=by_role[PREPARE_ROLE],
        train_jobs=by_role[TRAIN_ROLE],
        report_jobs=by_role[REPORT_ROLE],
        pods=pods,
        progress=None if ended else await _read_progress(by_role[TRAIN_ROLE], pods, ports),
    )


async def _confirm_running(obj: Json, status: FineTuneJobStatus, found: list[Json], ports: Ports) -> list[Json]:
    """Ask the API server for a running attempt's Job that the store lacks: a late store must cost no GPU hour."""
    if not status.attempts or status.attempts[-1].outcome != "Running":
        return found
    name = status.attempts[-1].job
    if any(job["metadata"]["name"] == name for job in found):
        return found
    live = await ports.reader.get(JOB, obj["metadata"]["namespace"], name)
    return [*found, *jobs.own_job(obj, live)]


def _with_role(found: list[Json], role: str) -> tuple[Json, ...]:
    return tuple(sorted((j for j in found if j["metadata"]["labels"][ROLE_LABEL] == role), key=jobs.attempt_of))


async def _missing_claims(obj: Json, spec: FineTuneJobSpec, ports: Ports) -> tuple[str, ...]:
    namespace = obj["metadata"]["namespace"]
    claims = find_places(obj, spec).claims
    return tuple([claim for claim in claims if await ports.reader.get(PVC, namespace, claim) is None])


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
