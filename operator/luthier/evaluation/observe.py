"""All that an Evaluation's decision needs, read into one value. Chooses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from luthier import jobs
from luthier.api.evaluation import EvaluationSpec, EvaluationStatus
from luthier.draft import read_spec
from luthier.evaluation.build import EVALUATE_ROLE, step_name
from luthier.evaluation.target import find_target, used_claims
from luthier.lookup import confirm_job, find_missing_claims
from luthier.naming import child_name
from luthier.plan import Json, Key
from luthier.ports import Ports
from luthier.report import REPORT_ROLE
from luthier.resources import FINETUNEJOB, JOB, POD
from luthier.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is, at one time. Jobs are in order of attempt."""

    now: datetime
    settings: Settings
    fine_tune_job: Json | None = None
    """The target's, when it names one that exists."""
    missing_claims: tuple[str, ...] = ()
    eval_jobs: tuple[Json, ...] = ()
    report_jobs: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()

    @property
    def jobs(self) -> tuple[Json, ...]:
        return (*self.eval_jobs, *self.report_jobs)


def target_key(obj: Json, spec: EvaluationSpec) -> Key | None:
    """Return the FineTuneJob that is judged, when one is named."""
    reference = spec.target.fine_tune_job
    if reference is None:
        return None
    return Key(kind=FINETUNEJOB.kind, namespace=obj["metadata"]["namespace"], name=reference.name)


async def observe(obj: Json, ports: Ports) -> Observed:
    """Read Jobs and pods from the store, the FineTuneJob from the watch, claims from the API server."""
    spec = read_spec(EvaluationSpec, obj)
    status = EvaluationStatus.model_validate(obj.get("status", {}))
    uid = obj["metadata"]["uid"]
    ended = status.completion_time is not None
    found = ports.children.owned(uid, JOB)
    if status.attempts and not ended:
        found = await confirm_job(obj, found, child_name(obj, step_name(status.attempts)), ports)
    job = None if ended else await _find_fine_tune_job(obj, spec, ports)
    idle = not ended and not any(map(jobs.is_running, found))
    return Observed(
        now=ports.now,
        settings=ports.settings,
        fine_tune_job=job,
        missing_claims=await _missing_claims(obj, spec, job, ports) if idle else (),
        eval_jobs=jobs.with_role(found, EVALUATE_ROLE),
        report_jobs=jobs.with_role(found, REPORT_ROLE),
        pods=jobs.own_pods(obj, ports.children.owned(uid, POD)),
    )


async def _find_fine_tune_job(obj: Json, spec: EvaluationSpec, ports: Ports) -> Json | None:
    key = target_key(obj, spec)
    if key is None:
        return None
    return ports.own.get(key) or await ports.reader.get(FINETUNEJOB, key.namespace, key.name)


async def _missing_claims(obj: Json, spec: EvaluationSpec, job: Json | None, ports: Ports) -> tuple[str, ...]:
    target = find_target(spec, job)
    if target is None:
        return ()
    return await find_missing_claims(obj, used_claims(spec, target), ports)
