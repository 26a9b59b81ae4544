"""What became of a Job and its pod: pure. The kinds decide what follows.

A Job of ours is one attempt. It ends in one of four ways: it succeeded with a result, it failed by its own fault,
the platform took it away, or it succeeded and its result went with the pod. The order of the checks is the order
of `failure_rules`: a disruption comes before exit codes, because a pod that is being killed may exit with any code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import ValidationError

from luthier.api.conditions import Reason
from luthier.api.step_reasons import StepReason
from luthier.naming import ATTEMPT_LABEL, ROLE_LABEL, controller_of, controller_uid, is_child_name
from luthier.plan import Json, Ref
from luthier.podspec import parse_quantity
from luthier.status import parse_time
from luthier_trainer.config import EXIT_PREEMPTED, EXIT_USER_ERROR, StepResult

LOST_POD_GRACE = timedelta(seconds=60)
"""A pod that is still there so long after its termination grace period blocks nothing: its node is lost."""

EXIT_KILLED = 137
MAX_INFRASTRUCTURE_LOSSES = 20
"""Attempts that the platform may take away before the object is given up."""
_FIRST_BACK_OFF_SECONDS = 10
_LONGEST_BACK_OFF_SECONDS = 300
_RULE_INDEX = re.compile(r"matching FailJob rule at index (\d+)")
_DISRUPTION_RULE, _USER_ERROR_RULE, _PREEMPTED_RULE = 0, 1, 2
_MORE_MEMORY = {
    "trainer": "raise the memory limit of spec.distributed.resourcesPerNode, or make batches or maxLength smaller",
    # No field of an object sets what these two get.
    "prepare": "raise the memory limit of the chart's value defaults.prepare",
    "evaluator": "raise the memory limit of the chart's value defaults.evaluator",
}
"""The way out, by container."""
_PULL_ERRORS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerError")


class Outcome(StrEnum):
    """How a Job ended."""

    SUCCEEDED = "Succeeded"
    USER_ERROR = "UserError"
    """By its own fault: counts against spec.backoffLimit."""
    INFRASTRUCTURE = "Infrastructure"
    """Taken away by the platform: does not count, and is tried again after a pause."""
    RESULT_LOST = "ResultLost"
    """It exited with 0, and nothing valid is left of its termination message."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a Job ended, in words for status. `final`: trying again gives the same."""

    outcome: Outcome
    reason: str
    message: str
    field: str | None = None
    final: bool = False
    result: StepResult | None = None
    ended_at: datetime


def failure_rules(container: str) -> list[Json]:
    """Return the podFailurePolicy rules: each ends the Job, and its index in the Job's message says why."""

    def on_exit(code: int) -> Json:
        return {
            "action": "FailJob",
            "onExitCodes": {"containerName": container, "operator": "In", "values": [code]},
        }

    return [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit(EXIT_USER_ERROR),
        on_exit(EXIT_PREEMPTED),
    ]


def judge_job(job: Json, pods: Iterable[Json], *, container: str) -> Ending | None:
    """Return how a Job ended, or None while it has not."""
    pod = newest_pod(pods_of(job, pods))
    if (complete := _condition(job, "Complete")) is not None:
        return _judge_complete(pod, container, parse_time(complete["lastTransitionTime"]))
    if (failed := _condition(job, "Failed")) is not None:
        return _judge_failed(pod, container, failed)
    return None


def _judge_complete(pod: Json | None, container: str, at: datetime) -> Ending:
    result = read_result(pod, container)
    if result is None:
        message = "the Job is complete, but its result is gone with the pod"
        return Ending(outcome=Outcome.RESULT_LOST, reason=Reason.RESULT_LOST, message=message, ended_at=at)
    return judge_result(result, ended_at=at)


def judge_result(result: StepResult, *, ended_at: datetime) -> Ending:
    """Return what a step's own report means.

    A user error that names a field is final, since the spec is immutable: but for a full volume, which people mend.
    """
    outcome = {
        "Succeeded": Outcome.SUCCEEDED,
        "UserError": Outcome.USER_ERROR,
        "Preempted": Outcome.INFRASTRUCTURE,
        "InternalError": Outcome.USER_ERROR,
    }[result.outcome]
    return Ending(
        outcome=outcome,
        reason=result.reason,
        message=result.message,
        field=spec_field(result.field),
        final=result.field is not None and is_refusal(result),
        result=result,
        ended_at=ended_at,
    )


def is_refusal(result: StepResult) -> bool:
    """Say whether a step refused its input: only other data or another spec helps."""
    return result.outcome == "UserError" and result.reason != StepReason.STORAGE_NOT_WRITABLE


def spec_field(field: str | None) -> str | None:
    """Return a field as users write it: steps name it from `spec` on."""
    return field if field is None or field.startswith("spec.") else f"spec.{field}"


def _judge_failed(pod: Json | None, container: str, failed: Json) -> Ending:
    at = parse_time(failed["lastTransitionTime"])
    reason, message = failed.get("reason", ""), failed.get("message", "")
    if reason == "DeadlineExceeded":
        text = "the attempt ran longer than spec.activeDeadlineSeconds; raise it in a new object, or ask for less"
        return _user_error(Reason.DEADLINE_EXCEEDED, text, at, final=True)
    rule = int(found.group(1)) if (found := _RULE_INDEX.search(message)) else None
    if rule == _DISRUPTION_RULE or (pod is not None and _is_disrupted(pod)):
        return _lost(f"the pod was taken away: {_disruption(pod) or message}", at)
    if (result := read_result(pod, container)) is not None and result.outcome != "Succeeded":
        return judge_result(result, ended_at=at)
    if rule == _PREEMPTED_RULE:
        return _lost("the pod was told to stop and saved its work", at)
    if rule == _USER_ERROR_RULE:
        return _user_error(
            Reason.USER_ERROR, "the pod ended with exit code 10 and its message is gone; see its log", at
        )
    return _judge_exit(pod, container, at)


def _judge_exit(pod: Json | None, container: str, at: datetime) -> Ending:
    ended = terminated(pod, container)
    if ended is None:
        return _lost("the pod is gone and left no exit code", at)
    if ended.get("reason") == "OOMKilled":
        text = f"container {container} ran out of memory; {_MORE_MEMORY.get(container, 'see its log')}"
        return _user_error(Reason.OUT_OF_MEMORY, text, at)
    code = ended.get("exitCode")
    if code in (EXIT_KILLED, EXIT_PREEMPTED):
        return _lost(f"the pod was killed from outside (exit code {code})", at)
    return _user_error(Reason.CONTAINER_FAILED, f"container {container} ended with exit code {code}; see its log", at)


def _user_error(reason: str, message: str, at: datetime, *, final: bool = False) -> Ending:
    return Ending(outcome=Outcome.USER_ERROR, reason=reason, message=message, final=final, ended_at=at)


def _lost(message: str, at: datetime) -> Ending:
    return Ending(outcome=Outcome.INFRASTRUCTURE, reason=Reason.POD_LOST, message=message, ended_at=at)


def job_deleted(now: datetime) -> Ending:
    """Return the ending of an attempt whose Job somebody deleted while it ran."""
    return _lost("its Job was deleted while it ran", now)


def node_lost(now: datetime) -> Ending:
    """Return the ending of an attempt whose pod cannot even be ended."""
    return _lost("its pod does not end: the node is lost", now)


def result_missing(at: datetime) -> Ending:
    """Return the ending of a step that exited with 0 and whose result is nowhere: never a success."""
    message = "the step exited with 0, and neither its message nor its result file holds a valid result"
    return _user_error(Reason.RESULT_MISSING, message, at, final=True)


def read_result(pod: Json | None, container: str) -> StepResult | None:
    """Return the result in a container's termination message, or None."""
    ended = terminated(pod, container)
    if ended is None:
        return None
    try:
        return StepResult.model_validate_json(ended.get("message") or "")
    except ValidationError:
        return None


def terminated(pod: Json | None, container: str) -> Json | None:
    """Return how a container ended, or None when it has not or the pod does not say."""
    found = _container_status(pod, container)
    ended: Json | None = (found or {}).get("state", {}).get("terminated")
    return ended


def last_terminated(pod: Json | None, container: str) -> Json | None:
    """Return how a restarted container ended the last time."""
    found = _container_status(pod, container) or {}
    ended: Json | None = found.get("state", {}).get("terminated") or found.get("lastState", {}).get("terminated")
    return ended


def restarts(pod: Json | None, container: str) -> int:
    """Return how often a container was started again."""
    return int((_container_status(pod, container) or {}).get("restartCount", 0))


def _container_status(pod: Json | None, container: str) -> Json | None:
    status = (pod or {}).get("status", {})
    every: list[Json] = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return next((c for c in every if c["name"] == container), None)


def pods_of(job: Json, pods: Iterable[Json]) -> list[Json]:
    """Return a Job's pods."""
    return [pod for pod in pods if controller_uid(pod) == job["metadata"]["uid"]]


def own_pods(owner: Json, pods: Iterable[Json]) -> tuple[Json, ...]:
    """Return the pods of our Jobs out of those with our labels, which anybody can copy.

    A Job is known by its name: pods of one that is gone still count, and still stop.
    """
    return tuple(pod for pod in pods if _is_of_job(owner, controller_of(pod)))


def _is_of_job(owner: Json, controller: Json | None) -> bool:
    return controller is not None and controller["kind"] == "Job" and is_child_name(owner, controller["name"])


def newest_pod(pods: Sequence[Json]) -> Json | None:
    """Return the pod that was made last."""
    return max(pods, key=lambda p: str(p["metadata"].get("creationTimestamp", "")), default=None)


def attempt_of(job: Json) -> int:
    """Return an attempt's number, from its label."""
    return int(job["metadata"]["labels"].get(ATTEMPT_LABEL, "0"))


def with_role(found: Iterable[Json], role: str) -> tuple[Json, ...]:
    """Return the Jobs of a role, in order of attempt."""
    return tuple(sorted((j for j in found if j["metadata"]["labels"].get(ROLE_LABEL) == role), key=attempt_of))


def is_finished(job: Json) -> bool:
    """Say whether a Job is complete or failed."""
    return _condition(job, "Complete") is not None or _condition(job, "Failed") is not None


def is_running(job: Json) -> bool:
    """Say whether a Job has not ended and nobody has deleted it."""
    return not is_finished(job) and not is_deleting(job)


def reference(job: Json, *, foreground: bool = False) -> Ref:
    """Return a Job as something to delete; foreground keeps it until its pod has stopped."""
    meta = job["metadata"]
    return Ref(
        api_version="batch/v1",
        kind="Job",
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        propagation="Foreground" if foreground else "Background",
    )


def is_deleting(thing: Json) -> bool:
    return "deletionTimestamp" in thing["metadata"]


def is_ended(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_stuck(pod: Json, now: datetime) -> bool:
    """Say whether a pod should have ended long ago: the deletion time includes the grace period."""
    if not is_deleting(pod) or is_ended(pod):
        return False
    return now > parse_time(pod["metadata"]["deletionTimestamp"]) + LOST_POD_GRACE


def back_off_seconds(losses: int) -> int:
    """Return the pause after so many losses: 10 s, doubled each time, at most 5 minutes."""
    doubled: int = _FIRST_BACK_OFF_SECONDS << min(max(losses - 1, 0), 10)
    return min(doubled, _LONGEST_BACK_OFF_SECONDS)


def explain_pod(pod: Json | None) -> str | None:
    """Return why a pod does not run yet, or None when it does."""
    if pod is None:
        return "waits for its pod"
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return None
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in _PULL_ERRORS:
            return f"{waiting['reason']}: {waiting.get('message', container.get('image', ''))}"
    scheduled = _condition(pod, "PodScheduled", status="False")
    if scheduled is not None:
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
    return "its pod is starting"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an ended pod took."""

    uid: str
    gpu_seconds: int
    cpu_seconds: int


def usage_of(pod: Json, *, gpu: str) -> Usage | None:
    """Return what a pod took from its start to its end, or None while it runs or when it never started."""
    status = pod.get("status", {})
    if not is_ended(pod) or "startTime" not in status:
        return None
    ends = [c["state"]["terminated"]["finishedAt"] for c in status.get("containerStatuses", []) if _has_end(c)]
    end = max(ends, default=None) or pod["metadata"].get("deletionTimestamp")
    if end is None:
        return None
    seconds = max(0.0, (parse_time(end) - parse_time(status["startTime"])).total_seconds())
    gpus, cpus = _asked_for(pod, gpu), _asked_for(pod, "cpu")
    return Usage(
        uid=pod["metadata"]["uid"],
        gpu_seconds=math.ceil(gpus * seconds),
        cpu_seconds=math.ceil(cpus * seconds) if not gpus else 0,
    )


def _has_end(container: Json) -> bool:
    return bool(container.get("state", {}).get("terminated", {}).get("finishedAt"))


def _asked_for(pod: Json, resource: str) -> float:
    total = 0.0
    for container in pod.get("spec", {}).get("containers", []):
        resources = container.get("resources", {})
        text = resources.get("requests", {}).get(resource) or resources.get("limits", {}).get(resource)
        total += float(parse_quantity(text)) if text else 0.0
    return total


def _is_disrupted(pod: Json) -> bool:
    if _condition(pod, "DisruptionTarget") is not None:
        return True
    # Evicted, NodeShutdown, UnexpectedAdmissionError and the like: the kubelet failed the pod, not its program.
    status = pod.get("status", {})
    return status.get("phase") == "Failed" and bool(status.get("reason")) and status["reason"] != "DeadlineExceeded"


def _disruption(pod: Json | None) -> str:
    if pod is None:
        return ""
    found = _condition(pod, "DisruptionTarget") or pod.get("status", {})
    return ": ".join(part for part in (found.get("reason", ""), found.get("message", "")) if part)


def _condition(thing: Json, type: str, *, status: str = "True") -> Json | None:  # noqa: A002
    conditions: list[Json] = thing.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type and c["status"] == status), None)
