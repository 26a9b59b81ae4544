"""Jobs and pods in every state that a cluster shows, and a world in memory that plans are applied to."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from luthier.naming import short_hash
from luthier.packing import pruned
from luthier.plan import Plan
from luthier.status import format_time

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    """Return a time relative to NOW, as Kubernetes writes it."""
    return format_time(NOW + timedelta(seconds=seconds))


def step_result(outcome: str = "Succeeded", reason: str = "Succeeded", message: str = "done", **more: Any) -> Json:
    return {"outcome": outcome, "reason": reason, "message": message, **more}


PREPARE_DETAILS = {
    "dataset_digest": "sha256:" + "d" * 64,
    "base_digest": "sha256:" + "b" * 64,
    "rows": 120,
    "train": 96,
    "validation": 12,
    "test": 12,
    "duplicates": 0,
    "too_long": 0,
    "train_tokens": 16000,
    "max_length": 256,
    "findings": ["PersonalData: 3 rows (2.5 %) hold e-mail addresses"],
}
MODEL_DIGEST = "sha256:" + "a" * 64


def train_details(path: str) -> Json:
    artifact = {"path": path, "digest": MODEL_DIGEST, "base_digest": PREPARE_DETAILS["base_digest"]}
    return {"artifact": artifact, "steps": 36, "loss": 0.51234, "validation_loss": 0.61, "seconds": 90.0}


def stored(manifest: Json, *, age: float = 60) -> Json:
    """Return a built child as the API server would store it."""
    out = copy.deepcopy(manifest)
    out["metadata"]["uid"] = "uid-" + short_hash(out["metadata"]["name"], 12)
    out["metadata"]["creationTimestamp"] = at(-age)
    return out


def with_condition(
    thing: Json, type_: str, *, status: str = "True", reason: str = "", message: str = "", age=0
) -> Json:
    out = copy.deepcopy(thing)
    condition = {"type": type_, "status": status, "reason": reason, "message": message}
    conditions = out.setdefault("status", {}).setdefault("conditions", [])
    conditions.append({**condition, "lastTransitionTime": at(-age)})
    return out


def complete(job: Json, *, age: float = 0) -> Json:
    return with_condition(job, "Complete", age=age)


def failed(job: Json, reason: str = "PodFailurePolicy", message: str = "", *, age: float = 0) -> Json:
    return with_condition(job, "Failed", reason=reason, message=message, age=age)


def failed_by_rule(job: Json, rule: int, *, age: float = 0) -> Json:
    return failed(
        job, message=f"Container trainer for pod team/x failed matching FailJob rule at index {rule}", age=age
    )


def deleting(thing: Json, *, due: float = 30) -> Json:
    """Return a thing that is being deleted; `due` is when its grace period ends, relative to NOW."""
    out = copy.deepcopy(thing)
    out["metadata"]["deletionTimestamp"] = at(due)
    return out


def pod_of(job: Json, phase: str = "Running", *, name: str = "") -> Json:
    """Return a Job's pod, as the store keeps it."""
    template = job["spec"]["template"]
    pod_name = name or f"{job['metadata']['name']}-0-abcde"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name,
            "namespace": job["metadata"]["namespace"],
            "uid": "pod-" + short_hash(pod_name, 12),
            "creationTimestamp": at(-50),
            "labels": copy.deepcopy(template["metadata"]["labels"]),
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": copy.deepcopy(template["spec"]),
        "status": {"phase": phase, "startTime": at(-40), **({"podIP": "10.0.0.7"} if phase == "Running" else {})},
    }
    return pruned(pod)


def ended_pod(
    job: Json, *, exit_code: int = 0, result: Json | None = None, reason: str = "", container: str = "", **status: Any
) -> Json:
    """Return the pod of an ended container; `result` is its termination message."""
    pod = pod_of(job, "Failed" if exit_code else "Succeeded")
    ended: Json = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
    ended |= {"startedAt": at(-38), "finishedAt": at(-10)}
    if result is not None:
        ended["message"] = json.dumps(result)
    name = container or pod["spec"]["containers"][0]["name"]
    pod["status"] |= {"containerStatuses": [{"name": name, "state": {"terminated": ended}}], **status}
    return pruned(pod)


def waiting_pod(job: Json, reason: str, message: str) -> Json:
    """Return a pod whose image does not come."""
    pod = pod_of(job, "Pending")
    name = pod["spec"]["containers"][0]["name"]
    waiting = {"reason": reason, "message": message}
    pod["status"]["containerStatuses"] = [{"name": name, "state": {"waiting": waiting}}]
    return pruned(pod)


def summary(status: Json, type_: str = "Succeeded") -> tuple[str, str]:
    """Return a condition's status and reason."""
    found = next((c for c in status["conditions"] if c["type"] == type_), None)
    return (found["status"], found["reason"]) if found else ("absent", "")


def message_of(status: Json, type_: str = "Succeeded") -> str:
    return str(next(c["message"] for c in status["conditions"] if c["type"] == type_))


def names(manifests: Any) -> list[str]:
    """Return the names of manifests or references."""
    return [m["metadata"]["name"] if isinstance(m, dict) else m.name for m in manifests]


@dataclass
class World:
    """What a cluster would hold. `lose_status` drops one status write, as an operator killed before it would."""

    obj: Json
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    writes: int = 0
    status_writes: int = 0

    def apply(self, plan: Plan, *, lose_status: int | None = None) -> None:
        for manifest in plan.apply:
            name = manifest["metadata"]["name"]
            if name not in self.jobs:
                self.jobs[name] = stored(manifest)
                self.created.append(name)
                self.writes += 1
        for ref in plan.delete:
            if ref.name in self.jobs and self.jobs[ref.name]["metadata"]["uid"] == ref.uid:
                gone = self.jobs.pop(ref.name)
                uid = gone["metadata"]["uid"]
                self.pods = {n: p for n, p in self.pods.items() if p["metadata"]["ownerReferences"][0]["uid"] != uid}
                self.writes += 1
        if plan.status != self.obj.get("status"):
            self.status_writes += 1
            if self.status_writes != lose_status:
                self.obj = {**self.obj, "status": json.loads(json.dumps(plan.status))}
                self.writes += 1
