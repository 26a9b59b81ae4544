"""FineTuneJobs and Evaluations on a real API server and Job controller; the test plays kubelet, nothing else.

The operator is the real process. Pods never run: their status is written as a kubelet would write it.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from factories import make_evaluation, make_finetunejob
from jobworld import MODEL_DIGEST, PREPARE_DETAILS, message_of, step_result, summary, train_details
from luthier.api.finetunejob import FineTuneJobSpec
from luthier.finetune.build import find_places
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]
CLAIMS = ("models", "data", "artifacts", "work")
STARTED, FINISHED = "2026-01-01T00:00:00Z", "2026-01-01T00:01:40Z"


class Namespace:
    """One namespace of the cluster, through plain HTTP."""

    def __init__(self, api, name: str) -> None:
        self._api = api
        self.name = name

    def url(self, plural: str, name: str = "") -> str:
        root = {"jobs": "apis/batch/v1", "finetunejobs": "apis/luthier.dev/v1alpha1"}
        root |= {"evaluations": "apis/luthier.dev/v1alpha1"}
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

    def delete(self, plural: str, name: str) -> None:
        reply = self._api.delete(self.url(plural, name), params={"propagationPolicy": "Background"})
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
        pod = self.pod(prefix)
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


@pytest.fixture
def place(api, namespace) -> Namespace:
    return Namespace(api, namespace)


def artifact_path(obj: Json) -> str:
    return find_places(obj, FineTuneJobSpec.model_validate(obj["spec"])).artifact.container_path


def prepare(place: Namespace) -> None:
    place.end_pod("tickets-data-1", result=step_result(details=PREPARE_DETAILS))


def start_training(place: Namespace, **spec: Any) -> Json:
    """Make claims and a FineTuneJob, and let its data be prepared."""
    place.make_claims(*CLAIMS)
    obj = place.make("finetunejobs", make_finetunejob(**spec))
    prepare(place)
    place.job("tickets-train-1")
    return obj


def train(place: Namespace, obj: Json, number: int = 1) -> None:
    place.end_pod(f"tickets-train-{number}", result=step_result(details=train_details(artifact_path(obj))))


def outcomes(place: Namespace) -> list[str]:
    return [a["outcome"] for a in place.status("finetunejobs", "tickets").get("attempts", [])]


def test_a_life_from_missing_claims_to_the_artifact_and_a_restart_that_writes_nothing(place, operator):
    first = operator(leader_elect=False)
    obj = place.make("finetunejobs", make_finetunejob())
    waits = place.succeeded("finetunejobs", "tickets", "Unknown", "WaitingForPersistentVolumeClaim")
    assert "artifacts, data, models, work" in waits["conditions"][0]["message"]
    assert place.list("jobs") == []
    place.make_claims(*CLAIMS)
    place.patch("finetunejobs", "tickets", {"metadata": {"annotations": {"look": "now"}}})
    prepare(place)
    place.run_pod("tickets-train-1")
    running = place.succeeded("finetunejobs", "tickets", "Unknown", "Training")
    assert running["dataset"]["train"] == 96
    assert summary(running, "DatasetReady") == ("True", "Prepared")
    assert summary(running, "Training") == ("True", "Running")
    train(place, obj)
    ended = place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    assert ended["artifact"]["digest"] == MODEL_DIGEST
    assert ended["artifact"]["uri"].startswith("pvc://artifacts/tickets/tickets-")
    assert ended["cost"]["cpuSeconds"] == 100  # two pods of 500m for 100 s
    assert outcomes(place) == ["Succeeded"]
    assert place.job_names() == {"tickets-data-1", "tickets-train-1"}
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    version = place.get("finetunejobs", "tickets")["metadata"]["resourceVersion"]
    operator()
    # A second object proves that the new operator has looked at everything: it works the list in order.
    place.make("finetunejobs", make_finetunejob("another"))
    place.job("another-data-1")
    assert place.get("finetunejobs", "tickets")["metadata"]["resourceVersion"] == version
    for name in ("tickets-data-1", "tickets-train-1"):
        place.delete("jobs", place.job(name)["metadata"]["name"])
    until(lambda: place.job_names() == {"another-data-1"}, "finished Jobs stay away")
    place.patch("finetunejobs", "tickets", {"spec": {"suspend": True}})
    until(lambda: place.status("finetunejobs", "tickets")["observedGeneration"] == 2, "the change is observed")
    assert place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    assert place.job_names() == {"another-data-1"}


def test_a_broken_row_ends_the_run_before_any_training(place, operator):
    operator()
    place.make_claims(*CLAIMS)
    place.make("finetunejobs", make_finetunejob())
    broken = step_result("UserError", "InvalidRow", "pvc://data/tickets.jsonl:7: no messages", field="dataset.sources")
    place.end_pod("tickets-data-1", exit_code=10, result=broken)
    status = place.succeeded("finetunejobs", "tickets", "False", "InvalidRow")
    assert summary(status, "Stalled") == ("True", "InvalidRow")
    assert status["error"]["message"] == "pvc://data/tickets.jsonl:7: no messages"
    assert place.job_names() == {"tickets-data-1"}
    events = [e for e in place.list("events") if e["involvedObject"]["kind"] == "FineTuneJob"]
    assert "InvalidRow" in {e["reason"] for e in events}


def test_a_wrong_spec_is_stalled_with_its_field_and_nothing_is_made(place, operator):
    operator()
    place.make_claims(*CLAIMS)
    place.make("finetunejobs", make_finetunejob(training={"learningRate": "5"}))
    status = place.succeeded("finetunejobs", "tickets", "False", "InvalidSpec")
    assert message_of(status).startswith("spec.training.learningRate: 5 is not between 0 and 1")
    assert place.list("jobs") == []


def test_suspend_stops_the_job_and_resume_makes_the_next_attempt(place, operator):
    operator()
    obj = start_training(place)
    place.run_pod("tickets-train-1")
    place.succeeded("finetunejobs", "tickets", "Unknown", "Training")
    place.patch("finetunejobs", "tickets", {"spec": {"suspend": True}})
    status = place.succeeded("finetunejobs", "tickets", "Unknown", "Suspended")
    assert outcomes(place) == ["Suspended"]
    assert summary(status, "Training") == ("False", "Suspended")
    until(lambda: place.job_names() == {"tickets-data-1"}, "the training Job is gone")
    place.patch("finetunejobs", "tickets", {"spec": {"suspend": False}})
    train(place, obj, number=2)
    status = place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    assert outcomes(place) == ["Suspended", "Succeeded"]
    assert status["resumeCount"] == 1


def test_a_result_that_went_with_its_pod_is_read_again(place, operator):
    operator()
    obj = start_training(place)
    place.end_pod("tickets-train-1")
    details = train_details(artifact_path(obj))
    place.end_pod("tickets-report-train-1", result=step_result(details=details))
    status = place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    assert status["artifact"]["digest"] == MODEL_DIGEST
    assert outcomes(place) == ["Succeeded"]


def test_a_job_deleted_by_hand_while_the_operator_is_down_is_a_loss_and_trained_again(place, operator):
    first = operator(leader_elect=False)
    obj = start_training(place, backoffLimit=0)
    place.run_pod("tickets-train-1")
    place.succeeded("finetunejobs", "tickets", "Unknown", "Training")
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    place.delete("jobs", place.job("tickets-train-1")["metadata"]["name"])
    until(lambda: place.job_names() == {"tickets-data-1"}, "the Job is gone")
    operator()
    place.succeeded("finetunejobs", "tickets", "Unknown", "Retrying", seconds=60)
    train(place, obj, number=2)
    place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    assert outcomes(place) == ["Infrastructure", "Succeeded"]


def test_an_eviction_is_a_loss_and_an_own_error_counts(place, operator):
    operator()
    start_training(place, backoffLimit=0)
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "spot"}
    place.end_pod("tickets-train-1", exit_code=20, conditions=[disruption])
    place.succeeded("finetunejobs", "tickets", "Unknown", "Retrying")
    assert outcomes(place) == ["Infrastructure"]
    nan = step_result("UserError", "NumericalError", "the loss is NaN at step 12")
    place.end_pod("tickets-train-2", exit_code=10, result=nan)
    status = place.succeeded("finetunejobs", "tickets", "False", "BackoffLimitExceeded")
    assert "NumericalError: the loss is NaN at step 12" in status["error"]["message"]
    assert outcomes(place) == ["Infrastructure", "UserError"]
    assert place.job_names() == {"tickets-data-1", "tickets-train-1", "tickets-train-2"}


def test_jobs_go_after_their_time_and_the_object_stays(place, operator):
    operator()
    obj = start_training(place, ttlSecondsAfterFinished=1)
    train(place, obj)
    place.succeeded("finetunejobs", "tickets", "True", "Succeeded")
    until(lambda: place.list("jobs") == [] and place.list("pods") == [], "the Jobs and pods are gone")
    assert place.succeeded("finetunejobs", "tickets", "True", "Succeeded")


def verdict(outcome: str) -> Json:
    numbers = {"value": 84.4, "low": 79.3, "high": 89.4}
    metric = {"name": "exact", "n": 12, "target": numbers, "baselines": []}
    suite = {"name": "held-out", "cases": 12, "digest": "sha256:e", "metrics": [metric]}
    gate = {"suite": "held-out", "metric": "exact", "outcome": outcome, "message": "84.4 % of 70 %"}
    found = {"verdict": outcome, "summary": f"{outcome}: 84.4 %", "results_sha256": "f" * 64}
    return step_result(details=found | {"suites": [suite], "gates": [gate]})


def test_an_evaluation_waits_for_its_finetunejob_and_tells_the_verdict(place, operator):
    operator()
    place.make("evaluations", make_evaluation())
    status = place.succeeded("evaluations", "tickets-eval", "Unknown", "WaitingForFineTuneJob")
    assert "FineTuneJob tickets does not exist" in status["conditions"][0]["message"]
    obj = start_training(place)
    train(place, obj)
    job = place.job("tickets-eval-eval-1")
    (engine,) = job["spec"]["template"]["spec"]["initContainers"]
    assert engine["restartPolicy"] == "Always"
    place.end_pod("tickets-eval-eval-1", result=verdict("Passed"))
    status = place.succeeded("evaluations", "tickets-eval", "True", "Passed")
    assert (status["verdict"], status["modelDigest"]) == ("Passed", MODEL_DIGEST)
    assert status["suites"][0]["metrics"][0]["target"]["low"] == "79.3"


def test_weights_that_the_engine_refuses_end_the_evaluation_and_free_the_node(place, operator):
    operator()
    place.make_claims(*CLAIMS)
    folders = {"fineTuneJob": None, "artifactUri": "pvc://artifacts/other", "baseModelUri": "pvc://models/smol"}
    metric = {"name": "exact", "type": "ExactMatch"}
    suite = {"name": "held-out", "type": "HeldOut", "datasetUri": "pvc://data/x.jsonl", "metrics": [metric]}
    place.make("evaluations", make_evaluation(target=folders, suites=[suite], gates=None))
    pod = place.pod("tickets-eval-eval-1")
    refused = step_result("UserError", "BaseMismatch", "the adapter was trained on another base")
    ended = {"exitCode": 11, "reason": "Error", "message": json.dumps(refused)}
    engine = {"name": "engine", "image": "x", "imageID": "", "ready": False, "restartCount": 1, "state": {}}
    status = {"phase": "Pending", "initContainerStatuses": [engine | {"lastState": {"terminated": ended}}]}
    place.patch("pods", pod["metadata"]["name"], {"status": status}, subresource="status")
    found = place.succeeded("evaluations", "tickets-eval", "False", "BaseMismatch")
    assert found["error"]["message"] == "the adapter was trained on another base"
    until(lambda: place.list("jobs") == [] and place.list("pods") == [], "the Job and its pod are gone")


def test_a_failed_gate_and_a_lost_verdict(place, operator):
    operator()
    obj = start_training(place)
    train(place, obj)
    place.make("evaluations", make_evaluation())
    place.end_pod("tickets-eval-eval-1")
    place.end_pod("tickets-eval-report-eval-1", result=verdict("Failed"))
    status = place.succeeded("evaluations", "tickets-eval", "False", "GatesFailed")
    assert "84.4 % of 70 %" in status["error"]["message"]
