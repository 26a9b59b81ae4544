"""Every condition type and reason, with its meaning, and the states that they form: data for code, docs and tests.

A new reason is one line in `Reason`; a test reads the whole operator and the images' results for reasons that are
missing here and in `step_reasons`. `STATES` is rendered into docs/conditions.md and is the fixture of its tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from luthier.api.base import Documented

ConditionStatus = Literal["True", "False", "Unknown"]


class ConditionType(Documented):
    """The condition types. Reconciling and Stalled exist only when True, and never both."""

    RECONCILING = "Reconciling", "Work goes on, or something is awaited; nobody has to act unless the message says so."
    STALLED = "Stalled", "Only a new spec, or a new object, helps."
    SUCCEEDED = "Succeeded", "Summary of FineTuneJob and Evaluation: Unknown until the run has ended."
    READY = "Ready", "Summary of ModelDeployment: the spec's revision serves all traffic."
    SERVING = "Serving", "ModelDeployment: clients get answers, from whichever revision."
    OVERRIDDEN = (
        "Overridden",
        "ModelDeployment: a person decides instead of the analysis (pin, promote.skipAnalysis). Only there when True.",
    )
    HELD = (
        "Held",
        "ModelDeployment: all rollouts are frozen; nothing starts or advances, rollback works. Only there when True.",
    )
    DATASET_READY = "DatasetReady", "FineTuneJob: the data is validated, rendered, split and stored."
    TRAINING = "Training", "FineTuneJob: a training attempt runs."
    EVALUATED = "Evaluated", "Evaluation: all cases were answered and judged, whatever the verdict."


class Reason(Documented):
    """The reasons of conditions and events. Each is a fact, with what to do about it."""

    # Waiting: looked at again every 30 s without end.
    WAITING_FOR_PVC = "WaitingForPersistentVolumeClaim", "A claim does not exist yet; the message names it. Create it."
    WAITING_FOR_FINE_TUNE_JOB = "WaitingForFineTuneJob", "The FineTuneJob does not exist or has no artifact yet."
    WAITING_FOR_EVALUATION = "WaitingForEvaluation", "The Evaluation does not exist or has no verdict yet."
    WAITING_FOR_GATEWAY = "WaitingForGateway", "The Gateway does not exist or does not accept the route yet."
    WAITING_FOR_APPROVAL = "WaitingForApproval", "A pause step waits for rollout.approve with this revision and step."
    # Runs.
    PENDING = "Pending", "The pod is not scheduled or its image is being pulled; the message says which."
    PREPARING = "Preparing", "The data Job runs."
    PREPARED = "Prepared", "The data is ready to train on."
    RUNNING = "Running", "The step's pod runs."
    TRAINING = "Training", "A training attempt runs."
    EVALUATING = "Evaluating", "The evaluation Job runs."
    RETRYING = "Retrying", "The last attempt was lost; another one follows."
    SUSPENDED = "Suspended", "spec.suspend is true; set it to false to go on."
    SUCCEEDED = "Succeeded", "The run ended well."
    REUSED = "Reused", "A complete artifact of exactly these inputs was already there; nothing was trained again."
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded", "Too many attempts failed by the run's own errors."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "An attempt ran longer than activeDeadlineSeconds."
    INTERNAL_ERROR = "InternalError", "A step failed by a fault of its own or of the machine; it is tried again."
    PREEMPTED = "Preempted", "The pod was asked to stop; the next attempt goes on from the checkpoint."
    POD_LOST = "PodLost", "The platform took the pod away: evicted, preempted, deleted, node lost. It is tried again."
    TOO_MANY_LOSSES = (
        "TooManyLosses",
        "The platform took away 20 attempts; look at nodes and quotas, then start a new object.",
    )
    OUT_OF_MEMORY = "OutOfMemory", "A container was killed for memory. Raise its memory limit, or make batches smaller."
    CONTAINER_FAILED = "ContainerFailed", "A container ended with an error and left no result; its log says more."
    RESULT_LOST = (
        "ResultLost",
        "A step succeeded and its result went with the pod; it is being read from storage again.",
    )
    RESULT_MISSING = "ResultMissing", "A step exited with 0 and left no valid result, in its message or in storage."
    ARTIFACT_MISSING = "ArtifactMissing", "Training exited with 0 and left no valid artifact; nothing is promoted."
    # Wrong specs: Stalled.
    INVALID_SPEC = "InvalidSpec", "The object cannot work as written; the message names the field and the way out."
    REFUSED = (
        "Refused",
        "The API server refuses a write, or fails at it for a minute: quota, policy, rights, a webhook; the message "
        "says which. Tried again.",
    )
    NAME_CONFLICT = "NameConflict", "An object of another owner has the name that a child needs; it is not touched."
    USER_ERROR = "UserError", "The run refused its input; the message names file, line or field."
    # Evaluation.
    PASSED = "Passed", "Every gate's whole interval satisfies it."
    GATES_FAILED = "GatesFailed", "At least one gate's whole interval violates it."
    INCONCLUSIVE = "Inconclusive", "No gate failed, but at least one interval lies on both sides of its bound."
    EVALUATED = "Evaluated", "All cases were answered and judged."
    ENGINE_FAILED = "EngineFailed", "The engine ended, or left cases unanswered after retries; no verdict is given."
    # Deployment.
    SERVING = "Serving", "Ready pods answer behind the gateway."
    INITIAL = "Initial", "The first revision: there was no stable one to compare with."
    PROMOTED = "Promoted", "The revision passed every step and serves all traffic."
    ROLLING_OUT = "RollingOut", "A candidate gets a growing share of traffic."
    ROLLED_BACK = "RolledBack", "The candidate was taken back; the message has the numbers. Change the spec, or retry."
    ABORTED = "Aborted", "The candidate was withdrawn by rollout.abort."
    REVERTED = "Reverted", "The spec is the stable revision again; the candidate was withdrawn."
    SUPERSEDED = "Superseded", "The spec changed in mid-rollout; its newest revision starts over."
    EVALUATION_NOT_PASSED = (
        "EvaluationNotPassed",
        "requireEvaluation has no gates, or did not pass; nothing new is served.",
    )
    EVALUATION_DIGEST_MISMATCH = (
        "EvaluationDigestMismatch",
        "The Evaluation judged other weights than spec.model; name an Evaluation of these.",
    )
    EVALUATION_TOO_OLD = "EvaluationTooOld", "The Evaluation is older than requireEvaluation.maxAgeSeconds: judge anew."
    SERVING_PROFILE_MISMATCH = (
        "ServingProfileMismatch",
        "spec.server.profile is not what was judged; serve as judged, or judge as served.",
    )
    CANDIDATE_CRASH_LOOPING = "CandidateCrashLooping", "The candidate's pods crash; it was taken back without metrics."
    CANDIDATE_NOT_READY = "CandidateNotReady", "The candidate had not all its pods ready in progressDeadlineSeconds."
    CANDIDATE_REFUSED = "CandidateRefused", "The server refused the weights: digest, base or template is another one."
    SAFETY_INCIDENT = "SafetyIncident", "An answer of the candidate had one of spec.safety.forbiddenTexts."
    ANALYSIS_FAILED = "AnalysisFailed", "The candidate is proven worse than the stable; the message has the numbers."
    ANALYSIS_INCONCLUSIVE = (
        "AnalysisInconclusive",
        "A step was not decided in maxStepSeconds, and onInconclusive is Rollback.",
    )
    METRICS_UNAVAILABLE = "MetricsUnavailable", "Prometheus gives no samples; the rollout is held and never advances."
    SPLIT_MISMATCH = (
        "SplitMismatch",
        "Requests do not arrive as the weights say; the rollout is held. Look at the gateway, and at what is scraped.",
    )
    BASELINE_UNHEALTHY = "BaselineUnhealthy", "The stable itself fails more than 20 % of its requests; no weight grows."
    ROLLOUT_HELD = (
        "RolloutHeld",
        "A step was not decided in maxStepSeconds, or pods were lost too often; the message says how it goes on.",
    )
    CAPACITY_SHORT = (
        "CapacityShort",
        "A candidate has to go and too few pods of the stable are ready: traffic moves as they become ready.",
    )
    INTERRUPTED = (
        "Interrupted",
        "The platform took pods of the candidate; it has no traffic and resumes a step earlier when they are back.",
    )
    ROLLBACK_NOT_EFFECTIVE = (
        "RollbackNotEffective",
        "Requests reach a revision 30 s after its weight became 0: the gateway does not follow its route.",
    )
    WATCHING = (
        "Watching",
        "Every step is passed; the old revision stays warm, and the new one can be taken back until the watch ends.",
    )
    AB_TEST_STARTED = "AbTestStarted", "Requests with the header of an abTest step go to the candidate."
    AB_TEST_ENDED = (
        "AbTestEnded",
        "An abTest step is over; the message has both sides' numbers, and whether they differ.",
    )
    WEIGHT_CHANGED = "WeightChanged", "The candidate's share of traffic was set."
    ROUTE_CONFLICT = (
        "RouteConflict",
        "An older ModelDeployment has the same Gateway, host and path; the message names it. Change one of them.",
    )
    PLAN_DRIFT = "PlanDrift", "spec.rollout was changed in mid-rollout: steps and analysis count from the next one on."
    AFFINITY_UNSUPPORTED = (
        "AffinityUnsupported",
        "No gateway of rollout.affinity can keep conversations on a revision: use Envoy Gateway, or remove affinity.",
    )
    GATEWAY_UNSUPPORTED = (
        "GatewayUnsupported",
        "The Gateway's class says that it cannot do what the route needs; the message names class and feature.",
    )
    AFFINITY_NOT_IN_FORCE = (
        "AffinityNotInForce",
        "Envoy Gateway has not taken the policy of rollout.affinity; the message has why. No weight grows.",
    )
    PLAN_CHOSEN = (
        "PlanChosen",
        "Without rollout.steps: which of the default steps the traffic of the last 24 h can decide in maxStepSeconds.",
    )
    NO_READY_PODS = "NoReadyPods", "No pod of the revision that should serve is ready."
    REVISION_RESTORED = (
        "RevisionRestored",
        "The record of a revision was deleted; it is made again from the copy on its Deployment or Service.",
    )
    REVISION_LOST = (
        "RevisionLost",
        "The record of what serves was deleted, and no copy is left: restore it from a backup, or make the "
        "ModelDeployment again.",
    )
    WAITING_FOR_CONFIRMATION = (
        "WaitingForConfirmation",
        "A hook of type Confirm has not agreed to the next weight; the message names it and what it said.",
    )
    PINNED = (
        "Pinned",
        "rollout.pin names the revision that serves; nothing else is tried until it is removed.",
    )
    PIN_REFUSED = (
        "PinRefused",
        "rollout.pin names what was never promoted, was taken back, or has no record; nothing starts or advances.",
    )
    PAUSES_APPROVED = "PausesApproved", "rollout.promote approves every pause of the candidate."
    ANALYSIS_SKIPPED = (
        "AnalysisSkipped",
        "rollout.promote with skipAnalysis sends the candidate on, whatever the analysis says.",
    )
    FROZEN = "Frozen", "The platform team has frozen all rollouts; nothing starts or advances, rollback works."
    OUTSIDE_WINDOW = (
        "OutsideWindow",
        "No rollout.windows is open; the message says when the next one opens. Rollback works.",
    )
    STATUS_REBUILT = "StatusRebuilt", "The status was lost and was rebuilt from the route and the revision records."


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One condition of a state."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class State:
    """One state of an object, and how other tools read it."""

    kind: str
    name: str
    conditions: tuple[Shown, ...]
    kstatus: Literal["InProgress", "Current", "Failed"]
    argo: Literal["Progressing", "Healthy", "Degraded", "Suspended"]


def _shown(text: str) -> tuple[Shown, ...]:
    """Read `Type=Status/Reason, …`."""
    parts = (re.fullmatch(r"(\w+)=(True|False|Unknown)/(\w+)", part.strip()) for part in text.split(","))
    return tuple(
        Shown(type=ConditionType(part[1]), status=cast(ConditionStatus, part[2]), reason=Reason(part[3]))
        for part in parts
        if part is not None
    )


def _state(
    kind: str,
    name: str,
    kstatus: Literal["InProgress", "Current", "Failed"],
    argo: Literal["Progressing", "Healthy", "Degraded", "Suspended"],
    conditions: str,
) -> State:
    return State(kind=kind, name=name, conditions=_shown(conditions), kstatus=kstatus, argo=argo)


STATES: tuple[State, ...] = (
    _state(
        "FineTuneJob",
        "waits for a claim",
        "InProgress",
        "Progressing",
        "Reconciling=True/WaitingForPersistentVolumeClaim, Succeeded=Unknown/WaitingForPersistentVolumeClaim",
    ),
    _state(
        "FineTuneJob",
        "prepares data",
        "InProgress",
        "Progressing",
        "DatasetReady=False/Preparing, Reconciling=True/Preparing, Succeeded=Unknown/Preparing",
    ),
    _state(
        "FineTuneJob",
        "trains",
        "InProgress",
        "Progressing",
        "DatasetReady=True/Prepared, Training=True/Running, Reconciling=True/Training, Succeeded=Unknown/Training",
    ),
    _state(
        "FineTuneJob",
        "is suspended",
        "InProgress",
        "Suspended",
        "DatasetReady=True/Prepared, Training=False/Suspended, Reconciling=True/Suspended, Succeeded=Unknown/Suspended",
    ),
    _state(
        "FineTuneJob",
        "has an artifact",
        "Current",
        "Healthy",
        "DatasetReady=True/Prepared, Training=False/Succeeded, Succeeded=True/Succeeded",
    ),
    _state(
        "FineTuneJob",
        "found its data broken",
        "Failed",
        "Degraded",
        "DatasetReady=False/UserError, Stalled=True/UserError, Succeeded=False/UserError",
    ),
    _state(
        "FineTuneJob",
        "gave up",
        "Failed",
        "Degraded",
        "DatasetReady=True/Prepared, Training=False/BackoffLimitExceeded, Stalled=True/BackoffLimitExceeded, "
        "Succeeded=False/BackoffLimitExceeded",
    ),
    _state(
        "Evaluation",
        "waits for the FineTuneJob",
        "InProgress",
        "Progressing",
        "Reconciling=True/WaitingForFineTuneJob, Succeeded=Unknown/WaitingForFineTuneJob",
    ),
    _state(
        "Evaluation",
        "runs",
        "InProgress",
        "Progressing",
        "Evaluated=False/Evaluating, Reconciling=True/Evaluating, Succeeded=Unknown/Evaluating",
    ),
    _state("Evaluation", "passed", "Current", "Healthy", "Evaluated=True/Evaluated, Succeeded=True/Passed"),
    _state(
        "Evaluation",
        "failed a gate",
        "Failed",
        "Degraded",
        "Evaluated=True/Evaluated, Stalled=True/GatesFailed, Succeeded=False/GatesFailed",
    ),
    _state(
        "Evaluation",
        "could not decide",
        "Failed",
        "Degraded",
        "Evaluated=True/Evaluated, Stalled=True/Inconclusive, Succeeded=False/Inconclusive",
    ),
    _state(
        "ModelDeployment",
        "waits for its Evaluation, nothing serves",
        "InProgress",
        "Progressing",
        "Serving=False/WaitingForEvaluation, Reconciling=True/WaitingForEvaluation, Ready=False/WaitingForEvaluation",
    ),
    _state("ModelDeployment", "serves its spec", "Current", "Healthy", "Serving=True/Serving, Ready=True/Promoted"),
    _state(
        "ModelDeployment",
        "rolls a candidate out",
        "InProgress",
        "Progressing",
        "Serving=True/Serving, Reconciling=True/RollingOut, Ready=False/RollingOut",
    ),
    _state(
        "ModelDeployment",
        "waits for approval",
        "InProgress",
        "Suspended",
        "Serving=True/Serving, Reconciling=True/WaitingForApproval, Ready=False/WaitingForApproval",
    ),
    _state(
        "ModelDeployment",
        "watches the candidate after its last step",
        "InProgress",
        "Progressing",
        "Serving=True/Serving, Reconciling=True/Watching, Ready=False/Watching",
    ),
    _state(
        "ModelDeployment",
        "waits for pods that the platform took away",
        "InProgress",
        "Progressing",
        "Serving=True/Serving, Reconciling=True/Interrupted, Ready=False/Interrupted",
    ),
    _state(
        "ModelDeployment",
        "took the candidate back",
        "Failed",
        "Degraded",
        "Serving=True/Serving, Stalled=True/RolledBack, Ready=False/RolledBack",
    ),
    _state(
        "ModelDeployment",
        "serves a pinned revision that is not its spec's",
        "InProgress",
        "Suspended",
        "Serving=True/Serving, Overridden=True/Pinned, Reconciling=True/Pinned, Ready=False/Pinned",
    ),
    _state(
        "ModelDeployment",
        "cannot serve what is pinned, the stable serves on",
        "Failed",
        "Degraded",
        "Serving=True/Serving, Stalled=True/PinRefused, Ready=False/PinRefused",
    ),
    _state(
        "ModelDeployment",
        "sends a candidate on without analysis",
        "InProgress",
        "Progressing",
        "Serving=True/Serving, Overridden=True/AnalysisSkipped, Reconciling=True/RollingOut, Ready=False/RollingOut",
    ),
    _state(
        "ModelDeployment",
        "is frozen in mid-rollout",
        "InProgress",
        "Suspended",
        "Serving=True/Serving, Held=True/Frozen, Reconciling=True/Frozen, Ready=False/Frozen",
    ),
    _state(
        "ModelDeployment",
        "serves its spec while all rollouts are frozen",
        "Current",
        "Healthy",
        "Serving=True/Serving, Held=True/Frozen, Ready=True/Promoted",
    ),
    _state(
        "ModelDeployment",
        "waits for its window",
        "InProgress",
        "Suspended",
        "Serving=True/Serving, Reconciling=True/OutsideWindow, Ready=False/OutsideWindow",
    ),
    _state(
        "ModelDeployment",
        "was refused by its Evaluation, the stable serves on",
        "Failed",
        "Degraded",
        "Serving=True/Serving, Stalled=True/EvaluationNotPassed, Ready=False/EvaluationNotPassed",
    ),
)

ARGO_HEALTH = """\
hs = {status = "Progressing", message = "not observed yet"}
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end
for _, c in ipairs(obj.status.conditions) do
  if c.type == "Stalled" and c.status == "True" then
    return {status = "Degraded", message = c.message}
  elseif c.type == "Reconciling" and c.status == "True" then
    hs.message = c.message
    local held = {Suspended = true, WaitingForApproval = true, Pinned = true, Frozen = true, OutsideWindow = true}
    if held[c.reason] then hs.status = "Suspended" end
  elseif (c.type == "Succeeded" or c.type == "Ready") and c.status == "True" then
    hs = {status = "Healthy", message = c.message}
  end
end
return hs
"""
"""Argo CD's health check of all three kinds (`resource.customizations.health.luthier.dev_<Kind>`)."""
