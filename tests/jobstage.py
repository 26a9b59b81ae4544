"""One namespace of a real API server, through plain HTTP, and what a kubelet would say of its Jobs' pods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobworld import step_result, summary
from luthier.api.finetunejob import FineTuneJobSpec
from luthier.finetune.build import find_places
from waiting import until

Json = dict[str, Any]
CLAIMS = ("models", "data", "artifacts", "work")
STARTED, FINISHED = "2026-01-01T00:00:00Z", "2026-01-01T00:01:40Z"


class Namespace:
    """One namespace of the cluster, through plain HTTP."""

    def __init__(self, api, name: str) -> None:
        self._api = api
        self.name = name

    def url(self, plural: str, name: str = "") -> str:
        ours = ("finetunejobs", "evaluations", "modeldeployments")
        root = {"jobs": "apis/batch/v1", **dict.fromkeys(ours, "apis/luthier.dev/v1alpha1")}
        return f"/{root.get(plural, 'api/v1')}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def create(self, plural: str, body: Json) -> Json:
        reply = self._api.post(self.url(plural), json=body)
        assert reply.status_code == 201, reply.text
        return reply.json()

    def get(self, plural: str, name: str) -> Json | None:
        reply = self._api.get(self.url(plural, name))
        return reply.json() if reply.status_code == 200 else None

    def list(self, plural: str) -> list[Json]:
        return self._api.get(self.url(plural)).json()["items"]

    def patch(self, plural: str, name: str, body: Json, *, subresource: str = "") -> None:
        url = self.url(plural, name) + (f"/{subresource}" if subresource else "")
        reply = self._api.patch(url, json=body, headers={"Content-Type": "application/merge-patch+json"})
        assert reply.status_code == 200, reply.text

    def delete(self, plural: str, name: str, *, propagation: str = "Background") -> None:
        reply = self._api.delete(self.url(plural, name), params={"propagationPolicy": propagation})
        assert reply.status_code in (200, 202), reply.text

    def make_claims(self, *claims: str) -> None:
        for claim in claims:
            spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": spec}
            self.create("persistentvolumeclaims", body)

    def make(self, plural: str, obj: Json) -> Json:
        return self.create(plural, {**obj, "metadata": {"name": obj["metadata"]["name"]}})

    # What the operator made

    def job_names(self) -> set[str]:
        """Return the Jobs by their names without the owner's hash."""
        return {job["metadata"]["name"].rsplit("-", 1)[0] for job in self.list("jobs")}

    def job(self, prefix: str) -> Json:
        """Wait for a Job."""

        def find():
            found = [j for j in self.list("jobs") if j["metadata"]["name"].rsplit("-", 1)[0] == prefix]
            return found[0] if found else None

        return until(find, f"a Job {prefix}", seconds=30)

    def pod(self, prefix: str) -> Json:
        """Wait for a Job's pod."""
        uid = self.job(prefix)["metadata"]["uid"]

        def find():
            pods = [p for p in self.list("pods") if p["metadata"]["ownerReferences"][0]["uid"] == uid]
            return pods[0] if pods else None

        return until(find, f"a pod of Job {prefix}", seconds=30)

    # What a kubelet says

    def run_pod(self, prefix: str) -> None:
        """Let a Job's pod run."""
        pod = self.pod(prefix)
        self.patch("pods", pod["metadata"]["name"], {"status": {"phase": "Running"}}, subresource="status")

    def end_pod(self, prefix: str, *, exit_code: int = 0, result: Json | None = None, **status: Any) -> None:
        """Let a Job's pod end."""
        self.end(self.pod(prefix), exit_code=exit_code, result=result, **status)

    def end(self, pod: Json, *, exit_code: int = 0, result: Json | None = None, **status: Any) -> None:
        """Let a pod end."""
        container = pod["spec"]["containers"][0]
        ended: Json = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}
        ended |= {"startedAt": STARTED, "finishedAt": FINISHED}
        if result is not None:
            ended["message"] = json.dumps(result)
        said = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": ended},
        }
        phase = "Failed" if exit_code else "Succeeded"
        body = {"status": {"phase": phase, "startTime": STARTED, "containerStatuses": [said], **status}}
        self.patch("pods", pod["metadata"]["name"], body, subresource="status")

    # What status says

    def status(self, plural: str, name: str) -> Json:
        return (self.get(plural, name) or {}).get("status", {})

    def succeeded(self, plural: str, name: str, *expected: str, seconds: float = 30) -> Json:
        """Wait until the summary has this status and reason; return the status."""
        last: Json = {}

        def is_there():
            nonlocal last
            last = self.status(plural, name)
            return last.get("conditions") and summary(last) == expected

        try:
            until(is_there, str(expected), seconds=seconds)
        except AssertionError:
            pytest.fail(f"not {expected} within {seconds} s; status: {json.dumps(last, indent=1)}")
        return last


def artifact_path(obj: Json) -> str:
    return find_places(obj, FineTuneJobSpec.model_validate(obj["spec"])).artifact.container_path


def verdict(outcome: str) -> Json:
    numbers = {"value": 84.4, "low": 79.3, "high": 89.4}
    metric = {"name": "exact", "n": 12, "target": numbers, "baselines": []}
    suite = {"name": "held-out", "cases": 12, "digest": "sha256:e", "metrics": [metric]}
    gate = {"suite": "held-out", "metric": "exact", "outcome": outcome, "message": "84.4 % of 70 %"}
    found = {"verdict": outcome, "summary": f"{outcome}: 84.4 %", "results_sha256": "f" * 64}
    return step_result(details=found | {"suites": [suite], "gates": [gate]})
