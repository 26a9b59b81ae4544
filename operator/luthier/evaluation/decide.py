"""What an Evaluation does next: pure.

The life is the list `STEPS`: the first one that has something to do makes the plan. Endings are recorded before
anything else is decided. Failed attempts are counted from the Jobs that are there; a verdict is never guessed.

    target ──► claims ──► attempt 1 … n ──► verdict
                             └─ failed or lost: pause, next; refused by the engine: the end; suspend: stop, next later
"""

from __future__ import annotations

from typing import Final

from luthier import jobs
from luthier.api.conditions import ConditionType, Reason
from luthier.api.evaluation import EvaluationSpec, EvaluationStatus
from luthier.draft import Draft, read_spec
from luthier.evaluation.build import ENGINE_CONTAINER, build_eval_config, build_eval_job
from luthier.evaluation.check import check_held_out, check_size, check_spec
from luthier.evaluation.endings import back_off, record_attempt
from luthier.evaluation.observe import Observed
from luthier.evaluation.run import Run, find_attempt
from luthier.evaluation.target import Target, find_target
from luthier.plan import Json, Plan
from luthier.status import find_condition
from luthier.steps import LOOK_AGAIN_SECONDS, WAIT_SECONDS, await_claims, await_object, await_stopping, rest


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
    target = find_target(run.spec, seen.fine_tune_job)
    return start_attempt(run, target) if target is not None else await_target(run)


def start_run(obj: Json, seen: Observed) -> Run:
    """Read the object; an attempt that exists and is not in status is counted in."""
    status = EvaluationStatus.model_validate(obj.get("status", {}))
    made = max((jobs.attempt_of(job) for job in seen.eval_jobs), default=0)
    draft = Draft(
        obj=obj,
        now=seen.now,
        status=status.model_copy(update={"conditions": [], "attempts": max(status.attempts, made)}),
        conditions=list(obj.get("status", {}).get("conditions", [])),
    )
    return Run(obj=obj, spec=read_spec(EvaluationSpec, obj), seen=seen, draft=draft)


# Waiting


def suspend(run: Run) -> Plan | None:
    """Stop whatever runs; the answers so far stay in storage, and the next attempt goes on from them."""
    if not run.spec.suspend:
        return None
    message = "spec.suspend is true; set it to false to go on with the answers so far"
    running = tuple(jobs.reference(job, foreground=True) for job in run.seen.jobs if jobs.is_running(job))
    draft = run.draft
    if draft.reason_of(ConditionType.SUCCEEDED) != Reason.SUSPENDED:
        draft = draft.event("Normal", Reason.SUSPENDED, message)
    draft = draft.say(ConditionType.EVALUATED, "False", Reason.SUSPENDED, message)
    return draft.working(Reason.SUSPENDED, message).plan(delete=running)


def await_target(run: Run) -> Plan:
    """Wait for the FineTuneJob's artifact without end: GitOps applies in any order."""
    reference = run.spec.target.fine_tune_job
    name = reference.name if reference is not None else ""
    text = _explain_target(name, run.obj["metadata"]["namespace"], run.seen.fine_tune_job)
    return await_object(run, Reason.WAITING_FOR_FINE_TUNE_JOB, text)


def _explain_target(name: str, namespace: str, job: Json | None) -> str:
    if job is None:
        return f"FineTuneJob {name} does not exist in namespace {namespace}"
    succeeded = find_condition(job.get("status", {}).get("conditions", []), ConditionType.SUCCEEDED)
    if succeeded is None or succeeded["status"] != "False":
        return f"FineTuneJob {name} has no artifact yet"
    return (
        f"FineTuneJob {name} failed ({succeeded['reason']}: {succeeded['message']}); "
        "make it again under this name, or judge another one by a new Evaluation"
    )


def refuse(run: Run) -> None:
    """Refuse what can never work, after what runs: that was made by the rules of its day, and its verdict counts.

    Raises:
        InvalidSpec: With the field and the way out.
    """
    check_spec(run.spec)


# Work


def watch_attempt(run: Run) -> Plan | None:
    """Show that the attempt runs."""
    job = find_attempt(run)
    if job is None or not jobs.is_running(job):
        return None
    pod = jobs.newest_pod(jobs.pods_of(job, run.seen.pods))
    loading = pod is not None and _is_loading(pod)
    pending = None if loading else jobs.explain_pod(pod)
    name = job["metadata"]["name"]
    doing = "the engine loads the model" if loading else "cases are answered and judged"
    draft = run.draft.say(ConditionType.EVALUATED, "False", Reason.EVALUATING, f"Job {name}: {pending or doing}")
    reason = Reason.PENDING if pending is not None else Reason.EVALUATING
    return draft.working(reason, f"Job {name}: {pending or doing}").plan(requeue_after=WAIT_SECONDS)


def _is_loading(pod: Json) -> bool:
    """Say whether the engine runs and is not ready: its pod counts as pending meanwhile."""
    found = [c for c in pod.get("status", {}).get("initContainerStatuses", []) if c["name"] == ENGINE_CONTAINER]
    return any("running" in c.get("state", {}) and not c.get("started", False) for c in found)


def start_attempt(run: Run, target: Target) -> Plan:
    """Make the next Job.

    Raises:
        InvalidSpec: A suite has no rows, or there are too many examples.
    """
    check_held_out(run.spec, target)
    check_size(run.spec, build_eval_config(run.obj, run.spec, target).model_dump_json())
    number = run.status.attempts + 1
    job = build_eval_job(run.obj, run.spec, target, run.seen.settings, number=number)
    message = f"Job {job['metadata']['name']}: waits for its pod"
    draft = run.draft.put(attempts=number, serving_profile=run.spec.serving_profile)
    draft = draft.event("Normal", Reason.EVALUATING, f"attempt {number} is Job {job['metadata']['name']}")
    draft = draft.say(ConditionType.EVALUATED, "False", Reason.EVALUATING, message)
    return draft.working(Reason.PENDING, message).plan(apply=(job,), requeue_after=LOOK_AGAIN_SECONDS)


STEPS: Final = (
    record_attempt,
    suspend,
    await_stopping,
    watch_attempt,
    refuse,
    back_off,
    await_claims,
)
