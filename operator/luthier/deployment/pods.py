"""What a revision's pods say: ready, crash-looping, refused, or not getting there: pure. No Prometheus is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from luthier import jobs
from luthier.api.conditions import Reason
from luthier.deployment.build import CONTAINER
from luthier.plan import Json
from luthier.status import find_condition, parse_time
from luthier_server.config import EXIT_REFUSED
from luthier_trainer.config import StepResult

MIN_RESTARTS = 2
"""So many restarts and backing off again: three starts have failed."""


LOSS_IS_NEWS_SECONDS = 120
"""A pod that the platform took away longer ago explains nothing that is missing now: evicted pods stay as objects."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A pod that the platform took away: evicted, preempted, or on a lost node. The revision is not to blame."""

    at: datetime
    message: str


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a candidate cannot become, or stay, what serves."""

    reason: Reason
    message: str


def is_ready(pod: Json) -> bool:
    """Say whether a pod is in its Service."""
    ready = find_condition(pod.get("status", {}).get("conditions", []), "Ready")
    return ready is not None and ready["status"] == "True" and not jobs.is_deleting(pod)


def ready_ids(pods: Sequence[Json]) -> tuple[tuple[str, str], ...]:
    """Return (uid, name) of the ready pods."""
    return tuple((p["metadata"]["uid"], p["metadata"]["name"]) for p in pods if is_ready(p))


def running_since(pods: Sequence[Json]) -> dict[str, float]:
    """Return when the servers of pods started, Unix seconds by the pod's UID, where the kubelet has said so."""
    found = {}
    for pod in pods:
        statuses = pod.get("status", {}).get("containerStatuses", [])
        running: Json = next((c.get("state", {}).get("running") or {} for c in statuses if c["name"] == CONTAINER), {})
        if started_at := running.get("startedAt"):
            found[pod["metadata"]["uid"]] = parse_time(started_at).timestamp()
    return found


def find_loss(pods: Sequence[Json], *, after: datetime, now: datetime) -> Loss | None:
    """Return the newest recent loss after a time."""
    recent = max(after, now - timedelta(seconds=LOSS_IS_NEWS_SECONDS))
    found = [loss for pod in pods if (loss := _loss(pod, now)) is not None and loss.at > recent]
    return max(found, key=lambda loss: loss.at, default=None)


def _loss(pod: Json, now: datetime) -> Loss | None:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    target = find_condition(status.get("conditions", []), "DisruptionTarget")
    if target is not None and target["status"] == "True":
        at = target.get("lastTransitionTime")
        why = ": ".join(filter(None, (target.get("reason"), target.get("message"))))
        return Loss(at=parse_time(at) if at else now, message=f"pod {name} was taken away ({why})")
    if jobs.is_stuck(pod, now):
        return Loss(at=now, message=f"pod {name} does not end: its node is lost")
    reason = status.get("reason")
    if status.get("phase") != "Failed" or not reason:
        return None
    # The kubelet failed the pod, not its program: Evicted, NodeShutdown and the like.
    ends = [c.get("state", {}).get("terminated", {}).get("finishedAt") for c in status.get("containerStatuses", [])]
    at = max(filter(None, (*ends, status.get("startTime"))), default=None)
    return Loss(at=parse_time(at) if at else now, message=f"pod {name} was taken away ({reason})")


def find_trouble(
    pods: Sequence[Json], deployment: Json | None, *, replicas: int, since: datetime, deadline: timedelta, now: datetime
) -> Trouble | None:
    """Return why a candidate must be rejected, if it must.

    Args:
        pods: The candidate's.
        deployment: The candidate's, when it exists.
        replicas: How many pods it should have.
        since: When it was admitted.
        deadline: How long it may be without all its pods.
        now: The pass's time.
    """
    for pod in pods:
        trouble = _refused(pod) or _crash_loop(pod)
        if trouble is not None:
            return trouble
    if len(ready_ids(pods)) >= replicas:
        return None
    lacking_since = _lacking_since(deployment)
    if lacking_since is None:
        return None
    waited = now - max(since, lacking_since)
    if waited < deadline:
        return None
    return Trouble(
        reason=Reason.CANDIDATE_NOT_READY,
        message=f"{len(ready_ids(pods))} of {replicas} pods ready after {int(waited.total_seconds())} s: "
        f"{explain(pods) or 'no pod says why'}",
    )


def explain(pods: Sequence[Json]) -> str | None:
    """Return what the newest pod waits for, or None when it does not."""
    pod = jobs.newest_pod(pods)
    if pod is None:
        return "its Deployment has made no pod yet"
    if (why := jobs.explain_pod(pod)) is not None:
        return why
    return None if is_ready(pod) else f"pod {pod['metadata']['name']} is not ready yet"


def _refused(pod: Json) -> Trouble | None:
    ends = (jobs.terminated(pod, CONTAINER), jobs.last_terminated(pod, CONTAINER))
    end = next((e for e in ends if e and e.get("exitCode") == EXIT_REFUSED), None)
    return Trouble(reason=Reason.CANDIDATE_REFUSED, message=_words(end)) if end else None


def _crash_loop(pod: Json) -> Trouble | None:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    waiting: Json = next((c.get("state", {}).get("waiting", {}) for c in statuses if c["name"] == CONTAINER), {})
    restarts = jobs.restarts(pod, CONTAINER)
    if waiting.get("reason") != "CrashLoopBackOff" or restarts < MIN_RESTARTS:
        return None
    end = jobs.last_terminated(pod, CONTAINER) or {}
    name = pod["metadata"]["name"]
    why = f"{end.get('reason', 'Error')}, exit code {end.get('exitCode', '?')}"
    words = _words(end)
    message = f"pod {name} restarted {restarts} times ({why}){f': {words}' if words else ''}"
    return Trouble(reason=Reason.CANDIDATE_CRASH_LOOPING, message=message[:700])


def _words(end: Json) -> str:
    """Return a termination message for people: the sentence of a result, else the tail of the log."""
    text = str(end.get("message", "")).strip()
    try:
        return StepResult.model_validate_json(text).message[:600]
    except ValidationError:
        return text[-600:]


def _lacking_since(deployment: Json | None) -> datetime | None:
    """Return since when pods are missing; None: the Deployment still has them all, as far as its controller knows.

    Pods are newer than that condition: one that has just gone, or was just asked for, is no lack since the start.
    """
    conditions = (deployment or {}).get("status", {}).get("conditions", [])
    available = find_condition(conditions, "Available")
    if available is None:
        return datetime.min.replace(tzinfo=UTC)  # It never had them: the caller's own start counts.
    return parse_time(available["lastTransitionTime"]) if available["status"] != "True" else None
