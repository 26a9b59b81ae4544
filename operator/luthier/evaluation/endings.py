"""How an Evaluation's attempts ended, and what that decides: pure."""

from __future__ import annotations

from datetime import timedelta

from pydantic import ValidationError

from luthier import jobs
from luthier.api.conditions import ConditionType, Reason
from luthier.api.evaluation import (
    BaselineResult,
    Estimate,
    EvaluationStatus,
    GateResult,
    MetricResult,
    SuiteResult,
)
from luthier.draft import Draft
from luthier.evaluation.build import ENGINE_CONTAINER, EVALUATOR_CONTAINER
from luthier.evaluation.run import Run, attempt_step, find_attempt, what_ran
from luthier.jobs import MAX_INFRASTRUCTURE_LOSSES, Ending, Outcome
from luthier.plan import Json, Plan, Ref
from luthier.report import await_report, judge_step
from luthier_eval.config import EstimateDetails, EvalDetails, GateDetails, MetricDetails, SuiteDetails
from luthier_server.config import EXIT_REFUSED
from luthier_trainer.config import StepResult

_MAX_SUMMARY, _MAX_GATE_MESSAGE = 512, 512


def record_attempt(run: Run) -> Plan | None:
    """Write how the last attempt ended, where that is the end of the Evaluation."""
    job = find_attempt(run)
    if job is None or (jobs.is_deleting(job) and not jobs.is_finished(job)):
        return None
    step = attempt_step(job)
    ending = judge_step(step, pods=run.seen.pods, reports=run.seen.report_jobs)
    if ending is None:
        return _judge_engine(run, job)
    if ending.outcome == Outcome.RESULT_LOST:
        return await_report(
            run.draft,
            step,
            pods=run.seen.pods,
            reports=run.seen.report_jobs,
            settings=run.seen.settings,
            scheduling=run.spec.scheduling,
            now=run.seen.now,
        )
    if ending.outcome == Outcome.SUCCEEDED:
        return _evaluated(run, job, ending)
    # The evaluator's own word that the suites are wrong: the same cases would be wrong again.
    if ending.final or (ending.result is not None and jobs.is_refusal(ending.result)):
        return _fail(run, ending.reason, ending.message, field=ending.field)
    return _give_up(run, ending)


def _judge_engine(run: Run, job: Json) -> Plan | None:
    """A sidecar that fails is started again and again: the Job would wait for it without end."""
    pods = jobs.pods_of(job, run.seen.pods)
    if any(jobs.is_stuck(pod, run.seen.now) for pod in pods):
        draft = run.draft.working(Reason.RETRYING, jobs.node_lost(run.seen.now).message)
        return draft.plan(delete=(jobs.reference(job),), requeue_after=1)
    pod = jobs.newest_pod(pods)
    ended = jobs.last_terminated(pod, ENGINE_CONTAINER)
    if ended is None:
        return None
    said = _read_message(ended)
    if ended.get("exitCode") == EXIT_REFUSED:
        reason = said.reason if said else Reason.ENGINE_FAILED
        message = said.message if said else "the engine refused the weights (exit code 11); see its log"
        return _fail(run, reason, message, delete=(jobs.reference(job),))
    restarts = jobs.restarts(pod, ENGINE_CONTAINER)
    if restarts <= run.spec.backoff_limit:
        return None
    if ended.get("reason") == "OOMKilled":
        message = f"the engine ran out of memory {restarts} times; raise the memory limit in spec.resources"
        return _fail(run, Reason.OUT_OF_MEMORY, message, delete=(jobs.reference(job),))
    cause = said.message if said else f"exit code {ended.get('exitCode')}; see its log"
    message = f"the engine failed {restarts} times, the last time with: {cause}"
    return _fail(run, Reason.ENGINE_FAILED, message, delete=(jobs.reference(job),))


def _read_message(ended: Json) -> StepResult | None:
    try:
        return StepResult.model_validate_json(ended.get("message") or "")
    except ValidationError:
        return None


def _evaluated(run: Run, job: Json, ending: Ending) -> Plan:
    details = _parse(ending)
    ran = what_ran(job)
    digest = (details.model_digest or ran.model_digest) if details is not None else ""
    if details is None or not digest:
        message = "the evaluator exited with 0 and left no valid result, or one that does not say what it judged"
        return _fail(run, Reason.RESULT_MISSING, message)
    draft = run.draft.put(
        verdict=details.verdict,
        model_digest=digest,
        serving_profile=run.spec.serving_profile,
        suites=[_suite(suite) for suite in details.suites],
        gates=[_gate(gate) for gate in details.gates],
        summary=details.summary[:_MAX_SUMMARY],
        report_uri=ran.output.child("report.html").uri,
        results_digest=_digest(details.results_sha256),
    )
    return announce(draft).plan()


def announce(draft: Draft[EvaluationStatus]) -> Draft[EvaluationStatus]:
    """Say the verdict. Only Passed is a success: no data and no decision never are."""
    summary = draft.status.summary or ""
    draft = draft.say(ConditionType.EVALUATED, "True", Reason.EVALUATED, summary)
    if draft.status.verdict == "Passed":
        return draft.succeeded(Reason.PASSED, summary)
    open_gates = [gate.message for gate in draft.status.gates if gate.outcome != "Passed"]
    message = "; ".join([summary, *open_gates])
    reason = Reason.GATES_FAILED if draft.status.verdict == "Failed" else Reason.INCONCLUSIVE
    return draft.failed(reason, message)


def _give_up(run: Run, last: Ending) -> Plan | None:
    """Count the attempts whose Jobs are there."""
    faults, losses = _count(run, Outcome.USER_ERROR), _count(run, Outcome.INFRASTRUCTURE)
    if faults > run.spec.backoff_limit:
        message = f"{faults} attempts failed, the last one with {last.reason}: {last.message}"
        return _fail(run, Reason.BACKOFF_LIMIT_EXCEEDED, message, field=last.field)
    if losses > MAX_INFRASTRUCTURE_LOSSES:
        message = f"the platform took away {losses} attempts, the last one because {last.message}"
        return _fail(run, Reason.TOO_MANY_LOSSES, message)
    return None


def back_off(run: Run) -> Plan | None:
    """Pause after an attempt that failed or was lost; the Job says when that was."""
    job = find_attempt(run)
    ending = jobs.judge_job(job, run.seen.pods, container=EVALUATOR_CONTAINER) if job is not None else None
    if ending is None:
        return None
    count = _count(run, Outcome.USER_ERROR) + _count(run, Outcome.INFRASTRUCTURE)
    due = ending.ended_at + timedelta(seconds=jobs.back_off_seconds(count))
    if run.seen.now >= due:
        return None
    number = run.status.attempts
    message = f"attempt {number} ended early ({ending.reason}: {ending.message}); the next one starts after a pause"
    draft = run.draft
    if draft.reason_of(ConditionType.EVALUATED) != Reason.RETRYING:
        draft = draft.event("Warning", ending.reason, message)
    draft = draft.say(ConditionType.EVALUATED, "False", Reason.RETRYING, message)
    return draft.working(Reason.RETRYING, message).plan(requeue_after=(due - run.seen.now).total_seconds())


def _count(run: Run, outcome: Outcome) -> int:
    endings = (jobs.judge_job(job, run.seen.pods, container=EVALUATOR_CONTAINER) for job in run.seen.eval_jobs)
    return sum(ending is not None and ending.outcome == outcome for ending in endings)


def _fail(run: Run, reason: str, message: str, *, field: str | None = None, delete: tuple[Ref, ...] = ()) -> Plan:
    draft = run.draft.say(ConditionType.EVALUATED, "False", reason, message)
    return draft.failed(reason, message, field=field).plan(delete=delete, status_first=True)


# Details to status


def _parse(ending: Ending) -> EvalDetails | None:
    try:
        return EvalDetails.model_validate(ending.result.details) if ending.result is not None else None
    except ValidationError:
        return None


def _suite(suite: SuiteDetails) -> SuiteResult:
    return SuiteResult(
        name=suite.name, cases=suite.cases, digest=_digest(suite.digest), metrics=[_metric(m) for m in suite.metrics]
    )


def _metric(metric: MetricDetails) -> MetricResult:
    baselines = [
        BaselineResult(name=b.name, value=_estimate(b.value), difference=_estimate(b.difference))
        for b in metric.baselines
    ]
    return MetricResult(name=metric.name, n=metric.n, target=_estimate(metric.target), baselines=baselines)


def _estimate(estimate: EstimateDetails) -> Estimate:
    return Estimate(value=f"{estimate.value:.4g}", low=f"{estimate.low:.4g}", high=f"{estimate.high:.4g}")


def _gate(gate: GateDetails) -> GateResult:
    return GateResult(
        suite=gate.suite, metric=gate.metric, outcome=gate.outcome, message=gate.message[:_MAX_GATE_MESSAGE]
    )


def _digest(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"
