"""FineTuneJobs and Evaluations on a real API server and Job controller; the test plays kubelet, nothing else.

The operator is the real process. Pods never run: their status is written as a kubelet would write it.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from factories import make_evaluation, make_finetunejob
from jobstage import CLAIMS, Namespace, artifact_path, verdict
from jobworld import MODEL_DIGEST, PREPARE_DETAILS, message_of, step_result, summary, train_details
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]


@pytest.fixture
def place(api, namespace) -> Namespace:
    return Namespace(api, namespace)


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
    assert ended["cost"]["cpuSeconds"] == 75  # pods of 250m and 500m for 100 s each
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


@pytest.mark.row(69)
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
    place.make("finetunejobs", make_finetunejob(output={"uri": "pvc://models/smol/tuned"}))
    status = place.succeeded("finetunejobs", "tickets", "False", "InvalidSpec")
    assert message_of(status).startswith("spec.output.uri: pvc://models/smol/tuned is inside spec.model.uri")
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


@pytest.mark.row(26)
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


@pytest.mark.row(29, 30, 35)
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
