"""What a FineTuneJob does next, state by state: each row is a sentence."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from factories import make_finetunejob
from jobworld import (
    MODEL_DIGEST,
    NOW,
    PREPARE_DETAILS,
    at,
    complete,
    deleting,
    ended_pod,
    failed,
    failed_by_rule,
    message_of,
    names,
    pod_of,
    step_result,
    stored,
    summary,
    train_details,
    waiting_pod,
)
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.errors import InvalidSpec
from luthier.finetune.build import build_prepare_job, build_train_job, find_places
from luthier.finetune.decide import decide
from luthier.finetune.observe import Observed
from luthier.report import build_report_job
from luthier.settings import Settings
from luthier_trainer.config import ProgressReport
from offline_admission import refusals

SETTINGS = Settings(_env_file=None)
OBJ = make_finetunejob()
SPEC = FineTuneJobSpec.model_validate(OBJ["spec"])
PLACES = find_places(OBJ, SPEC)
LONGEST_URI = "pvc://artifacts/".ljust(512, "x")
CLAIMS = ("artifacts", "data", "models", "work")


def data_job(number: int = 1) -> dict[str, Any]:
    return stored(build_prepare_job(OBJ, SPEC, SETTINGS, number=number))


def train_job(number: int = 1) -> dict[str, Any]:
    return stored(build_train_job(OBJ, SPEC, FineTuneJobStatus(), SETTINGS, number=number))


def report_job(step: str) -> dict[str, Any]:
    job = build_report_job(OBJ, step=step, result=PLACES.result(step), settings=SETTINGS, scheduling=None)
    return stored(job)


DATA, TRAIN = data_job(), train_job()
PREPARED = step_result(details=PREPARE_DETAILS)
TRAINED = step_result(details=train_details(PLACES.artifact.container_path))
REUSED = step_result(
    details={
        **PREPARE_DETAILS,
        "reused": {
            "path": PLACES.artifact.container_path,
            "digest": MODEL_DIGEST,
            "base_digest": PREPARE_DETAILS["base_digest"],
        },
    }
)
BAD_ROW = step_result("UserError", "InvalidRow", "pvc://data/tickets.jsonl:7: no messages", field="dataset.sources[0]")
FULL = step_result("UserError", "StorageNotWritable", "free or enlarge the volume", field="workspace.claimName")
NO_FILE = step_result("InternalError", "ResultMissing", "train-1-result.json is not there: the step ended without one")
NAN = step_result("UserError", "NumericalError", "the loss is NaN at step 12")


def condition(type_: str, status: str, reason: str, message: str = "", *, age: float = 0) -> dict[str, Any]:
    said = {"type": type_, "status": status, "reason": reason, "message": message}
    return {**said, "observedGeneration": 1, "lastTransitionTime": at(-age)}


def attempt(number: int = 1, outcome: str = "Running") -> dict[str, Any]:
    return {"number": number, "job": train_job(number)["metadata"]["name"], "outcome": outcome}


def prepared(*attempts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the status after the data Job."""
    lineage = {
        "datasetDigest": PREPARE_DETAILS["dataset_digest"],
        "baseModelDigest": PREPARE_DETAILS["base_digest"],
        "configDigest": "sha256:" + "c" * 64,
    }
    return {"dataset": {"train": 96, "test": 12}, "lineage": lineage, "attempts": list(attempts), **more}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A state, and what must follow."""

    status: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    data: tuple[Any, ...] = ()
    train: tuple[Any, ...] = ()
    report: tuple[Any, ...] = ()
    pods: tuple[Any, ...] = ()
    missing: tuple[str, ...] = ()
    progress: ProgressReport | None = None
    succeeded: tuple[str, str]
    applied: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    requeue: float | None = None
    says: str = ""
    """Part of the summary's message."""
    outcomes: tuple[str, ...] = ()


def decide_row(row: Row):
    obj = make_finetunejob(status=row.status, **row.spec)
    seen = Observed(
        now=NOW,
        settings=SETTINGS,
        missing_claims=row.missing,
        prepare_jobs=row.data,
        train_jobs=row.train,
        report_jobs=row.report,
        pods=row.pods,
        progress=row.progress,
    )
    return decide(obj, seen)


def retrying(age: float) -> dict[str, Any]:
    return condition("Training", "False", "Retrying", "attempt 1 ended early", age=age)


FIRST_LOST = prepared(attempt(1, "Infrastructure"))
NODE_LOST_POD = deleting(pod_of(TRAIN), due=-61)
GIVE_UP = tuple(attempt(n, "UserError") for n in (1, 2, 3))
LOSSES = tuple(attempt(n, "Infrastructure") for n in range(1, 21))
SUSPEND = {"suspend": True}
TRAIN_NAME, DATA_NAME = TRAIN["metadata"]["name"], DATA["metadata"]["name"]

ROWS = {
    # Waiting and preparing
    "a missing claim is waited for, and nothing is made": Row(
        missing=("models",),
        succeeded=("Unknown", "WaitingForPersistentVolumeClaim"),
        requeue=30,
        says="PersistentVolumeClaim models does not exist in namespace team (since 2026-01-01T12:00:00Z)",
    ),
    "all claims there: the data Job is made": Row(succeeded=("Unknown", "Preparing"), applied=(DATA_NAME,)),
    "the data Job runs: only shown": Row(
        data=(DATA,), pods=(pod_of(DATA),), succeeded=("Unknown", "Preparing"), requeue=30
    ),
    "the data Job's image does not come: pending, and why": Row(
        data=(DATA,),
        pods=(waiting_pod(DATA, "ErrImagePull", "no such host"),),
        succeeded=("Unknown", "Pending"),
        requeue=30,
        says="ErrImagePull: no such host",
    ),
    "the data is prepared: status first, at once again, no child yet": Row(
        data=(complete(DATA),),
        pods=(ended_pod(DATA, result=PREPARED),),
        succeeded=("Unknown", "Prepared"),
        requeue=0,
    ),
    "an artifact of the same inputs is there: Reused": Row(
        data=(complete(DATA),), pods=(ended_pod(DATA, result=REUSED),), succeeded=("True", "Reused")
    ),
    "a broken row ends the run with file and line": Row(
        data=(failed_by_rule(DATA, 1),),
        pods=(ended_pod(DATA, exit_code=10, result=BAD_ROW),),
        succeeded=("False", "InvalidRow"),
        says="pvc://data/tickets.jsonl:7: no messages",
    ),
    "the data Job exits with 0 and details that are none": Row(
        data=(complete(DATA),),
        pods=(ended_pod(DATA, result=step_result(details={"rows": "many"})),),
        succeeded=("False", "ResultMissing"),
    ),
    "a full volume is tried again: people mend it": Row(
        data=(failed_by_rule(DATA, 1, age=4),),
        pods=(ended_pod(DATA, exit_code=10, result=FULL),),
        succeeded=("Unknown", "Retrying"),
        requeue=6,
        says="enlarge the volume",
    ),
    "the data Job crashed just now: a pause": Row(
        data=(failed(DATA, age=4),),
        pods=(ended_pod(DATA, exit_code=1),),
        succeeded=("Unknown", "Retrying"),
        requeue=6,
    ),
    "the data Job crashed before: the next one is made": Row(
        data=(failed(DATA, age=11),),
        pods=(ended_pod(DATA, exit_code=1),),
        succeeded=("Unknown", "Preparing"),
        applied=(data_job(2)["metadata"]["name"],),
    ),
    "the data Job ran out of memory: only the platform gives it more": Row(
        data=(failed(DATA, age=4),),
        pods=(ended_pod(DATA, exit_code=137, reason="OOMKilled"),),
        succeeded=("Unknown", "Retrying"),
        requeue=6,
        says="the chart's value defaults.prepare",
    ),
    "the data Job was lost: the next one is made": Row(
        data=(failed_by_rule(DATA, 0, age=11),),
        succeeded=("Unknown", "Preparing"),
        applied=(data_job(2)["metadata"]["name"],),
    ),
    "the data Job crashed as often as backoffLimit allows: once more": Row(
        spec={"backoffLimit": 1},
        data=(failed(DATA, age=11),),
        pods=(ended_pod(DATA, exit_code=3),),
        succeeded=("Unknown", "Preparing"),
        applied=(data_job(2)["metadata"]["name"],),
    ),
    "the data Job crashed too often": Row(
        spec={"backoffLimit": 0},
        data=(failed(DATA, age=11),),
        pods=(ended_pod(DATA, exit_code=3),),
        succeeded=("False", "BackoffLimitExceeded"),
        says="ContainerFailed",
    ),
    "the data Job was taken away too often": Row(
        data=tuple(failed_by_rule(data_job(n), 0, age=400) for n in range(1, 22)),
        succeeded=("False", "TooManyLosses"),
    ),
    "the data pod is on a lost node: its Job goes": Row(
        data=(DATA,),
        pods=(deleting(pod_of(DATA), due=-61),),
        succeeded=("Unknown", "Retrying"),
        deleted=(DATA_NAME,),
        requeue=1,
    ),
    "the data Job's result went with the pod: a report Job reads it": Row(
        data=(complete(DATA),),
        succeeded=("Unknown", "ResultLost"),
        applied=(report_job("data-1")["metadata"]["name"],),
    ),
    "the report Job runs: no second data Job meanwhile": Row(
        data=(complete(DATA),), report=(report_job("data-1"),), succeeded=("Unknown", "ResultLost"), requeue=30
    ),
    "the report Job brings the data's result back": Row(
        data=(complete(DATA),),
        report=(complete(report_job("data-1")),),
        pods=(ended_pod(report_job("data-1"), result=PREPARED),),
        succeeded=("Unknown", "Prepared"),
        requeue=0,
    ),
    # Training
    "prepared: the first attempt is made": Row(
        status=prepared(),
        succeeded=("Unknown", "Pending"),
        applied=(TRAIN_NAME,),
        requeue=15,
        outcomes=("Running",),
    ),
    "an attempt exists that status does not know: adopted, not made again": Row(
        status=prepared(),
        train=(TRAIN,),
        pods=(pod_of(TRAIN),),
        succeeded=("Unknown", "Training"),
        requeue=15,
        outcomes=("Running",),
    ),
    "status was lost after two attempts: both are known again": Row(
        status=prepared(),
        train=(failed_by_rule(TRAIN, 0), train_job(2)),
        pods=(pod_of(train_job(2)),),
        succeeded=("Unknown", "Training"),
        requeue=15,
        outcomes=("Infrastructure", "Running"),
    ),
    "a former attempt that nobody saw end was lost, whatever its Job says": Row(
        status=prepared(),
        train=(complete(TRAIN), train_job(2)),
        pods=(pod_of(train_job(2)),),
        succeeded=("Unknown", "Training"),
        requeue=15,
        outcomes=("Infrastructure", "Running"),
    ),
    "no node has room: pending, and why": Row(
        status=prepared(attempt()),
        train=(TRAIN,),
        pods=(waiting_pod(TRAIN, "ImagePullBackOff", "no such image"),),
        succeeded=("Unknown", "Pending"),
        requeue=30,
        says="attempt 1: ImagePullBackOff: no such image",
    ),
    "the attempt has no pod yet": Row(
        status=prepared(attempt()), train=(TRAIN,), succeeded=("Unknown", "Pending"), requeue=30
    ),
    "the attempt runs": Row(
        status=prepared(attempt()),
        train=(TRAIN,),
        pods=(pod_of(TRAIN),),
        progress=ProgressReport(step=9, of=36, epoch=0.75, phase="Training"),
        succeeded=("Unknown", "Training"),
        requeue=15,
        says="attempt 1 trains",
    ),
    "trained: the run has succeeded": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        pods=(ended_pod(TRAIN, result=TRAINED),),
        succeeded=("True", "Succeeded"),
        outcomes=("Succeeded",),
        says=f"{MODEL_DIGEST} is at pvc://artifacts/tickets/tickets-",
    ),
    "success wins over a suspend that came too late": Row(
        spec=SUSPEND,
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        pods=(ended_pod(TRAIN, result=TRAINED),),
        succeeded=("True", "Succeeded"),
        outcomes=("Succeeded",),
    ),
    "exit 0 with details that are none is never a success": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        pods=(ended_pod(TRAIN, result=step_result()),),
        succeeded=("False", "ArtifactMissing"),
        outcomes=("UserError",),
    ),
    "the result went with the pod: a report Job reads it": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        succeeded=("Unknown", "ResultLost"),
        applied=(report_job("train-1")["metadata"]["name"],),
        outcomes=("Running",),
    ),
    "the report Job brings the result back": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(complete(report_job("train-1")),),
        pods=(ended_pod(report_job("train-1"), result=TRAINED),),
        succeeded=("True", "Succeeded"),
        outcomes=("Succeeded",),
    ),
    "the report Job finds nothing: the artifact is missing": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(failed(report_job("train-1"), "BackoffLimitExceeded"),),
        pods=(ended_pod(report_job("train-1"), exit_code=1, result=NO_FILE),),
        succeeded=("False", "ArtifactMissing"),
        outcomes=("UserError",),
    ),
    "the report Job ran out of memory just now: the artifact may be fine": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(failed(report_job("train-1"), "BackoffLimitExceeded", age=10),),
        pods=(ended_pod(report_job("train-1"), exit_code=137, reason="OOMKilled"),),
        succeeded=("Unknown", "ResultLost"),
        requeue=20,
        outcomes=("Running",),
        says="the last try ended early (OutOfMemory",
    ),
    "the report Job could not even start: it goes, and another one follows": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(failed(report_job("train-1"), "BackoffLimitExceeded", age=31),),
        pods=(ended_pod(report_job("train-1"), exit_code=128, reason="StartError"),),
        succeeded=("Unknown", "ResultLost"),
        deleted=(report_job("train-1")["metadata"]["name"],),
        requeue=1,
        outcomes=("Running",),
    ),
    "the report Job's own result went with its pod: another one follows": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(complete(report_job("train-1"), age=31),),
        succeeded=("Unknown", "ResultLost"),
        deleted=(report_job("train-1")["metadata"]["name"],),
        requeue=1,
        outcomes=("Running",),
    ),
    "the report Job's node is lost: it goes, and another one follows": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(report_job("train-1"),),
        pods=(deleting(pod_of(report_job("train-1")), due=-61),),
        succeeded=("Unknown", "ResultLost"),
        deleted=(report_job("train-1")["metadata"]["name"],),
        requeue=1,
        outcomes=("Running",),
    ),
    "the report Job was lost just now: looked at later": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(failed_by_rule(report_job("train-1"), 0, age=10),),
        succeeded=("Unknown", "ResultLost"),
        requeue=20,
        outcomes=("Running",),
    ),
    "the report Job was lost before: it goes, and another one follows": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        report=(failed_by_rule(report_job("train-1"), 0, age=31),),
        succeeded=("Unknown", "ResultLost"),
        deleted=(report_job("train-1")["metadata"]["name"],),
        requeue=1,
        outcomes=("Running",),
    ),
    # Attempts that end early
    "a lost pod: written down first, then a pause": Row(
        status=prepared(attempt()),
        train=(failed_by_rule(TRAIN, 0),),
        succeeded=("Unknown", "Retrying"),
        requeue=10,
        outcomes=("Infrastructure",),
        says="the next one starts in 10 s",
    ),
    "the pause is not over": Row(
        status=FIRST_LOST | {"conditions": [retrying(4)]},
        train=(failed_by_rule(TRAIN, 0),),
        succeeded=("Unknown", "Retrying"),
        requeue=6,
        outcomes=("Infrastructure",),
    ),
    "the pause is over: attempt 2": Row(
        status=FIRST_LOST | {"conditions": [retrying(10)]},
        train=(failed_by_rule(TRAIN, 0),),
        succeeded=("Unknown", "Pending"),
        applied=(train_job(2)["metadata"]["name"],),
        requeue=15,
        outcomes=("Infrastructure", "Running"),
    ),
    "suspended in the pause and resumed: no second pause": Row(
        status=FIRST_LOST | {"conditions": [condition("Training", "False", "Suspended")]},
        succeeded=("Unknown", "Pending"),
        applied=(train_job(2)["metadata"]["name"],),
        requeue=15,
        outcomes=("Infrastructure", "Running"),
    ),
    "the second loss in a row pauses twice as long": Row(
        status=prepared(attempt(1, "Infrastructure"), attempt(2)),
        train=(failed_by_rule(train_job(2), 0),),
        succeeded=("Unknown", "Retrying"),
        requeue=20,
        outcomes=("Infrastructure", "Infrastructure"),
    ),
    "the 21st loss gives up": Row(
        status=prepared(*LOSSES, attempt(21)),
        train=(failed_by_rule(train_job(21), 0),),
        succeeded=("False", "TooManyLosses"),
    ),
    "the run's own error is tried again within backoffLimit": Row(
        status=prepared(attempt()),
        train=(failed_by_rule(TRAIN, 1),),
        pods=(ended_pod(TRAIN, exit_code=10, result=NAN),),
        succeeded=("Unknown", "Retrying"),
        requeue=10,
        outcomes=("UserError",),
        says="NumericalError: the loss is NaN at step 12",
    ),
    "one error more than backoffLimit ends the run": Row(
        status=prepared(*GIVE_UP, attempt(4)),
        train=(failed_by_rule(train_job(4), 1),),
        pods=(ended_pod(train_job(4), exit_code=10, result=NAN),),
        succeeded=("False", "BackoffLimitExceeded"),
        says="4 training attempts failed by their own errors, the last one with NumericalError: the loss is NaN",
    ),
    "losses do not count against backoffLimit": Row(
        spec={"backoffLimit": 0},
        status=prepared(attempt(1, "Infrastructure"), attempt(2)),
        train=(failed_by_rule(train_job(2), 0),),
        succeeded=("Unknown", "Retrying"),
        requeue=20,
        outcomes=("Infrastructure", "Infrastructure"),
    ),
    "an error that names a field is final, whatever backoffLimit says": Row(
        status=prepared(attempt()),
        train=(failed_by_rule(TRAIN, 1),),
        pods=(ended_pod(TRAIN, exit_code=10, result=BAD_ROW),),
        succeeded=("False", "InvalidRow"),
    ),
    "out of memory counts, and names the way out": Row(
        status=prepared(attempt()),
        train=(failed(TRAIN, "BackoffLimitExceeded"),),
        pods=(ended_pod(TRAIN, exit_code=137, reason="OOMKilled"),),
        succeeded=("Unknown", "Retrying"),
        requeue=10,
        outcomes=("UserError",),
        says="raise the memory limit of spec.distributed.resourcesPerNode",
    ),
    "past activeDeadlineSeconds the run ends": Row(
        status=prepared(attempt()),
        train=(failed(TRAIN, "DeadlineExceeded"),),
        succeeded=("False", "DeadlineExceeded"),
        outcomes=("UserError",),
    ),
    "the Job was deleted by hand: infrastructure": Row(
        status=prepared(attempt()),
        succeeded=("Unknown", "Retrying"),
        requeue=10,
        outcomes=("Infrastructure",),
        says="its Job was deleted while it ran",
    ),
    "the Job is being deleted by hand: infrastructure": Row(
        status=prepared(attempt()),
        train=(deleting(TRAIN),),
        pods=(deleting(pod_of(TRAIN)),),
        succeeded=("Unknown", "Retrying"),
        requeue=10,
        outcomes=("Infrastructure",),
    ),
    "the former pod still stops: no second writer": Row(
        status=FIRST_LOST | {"conditions": [retrying(60)]},
        train=(deleting(TRAIN),),
        pods=(deleting(pod_of(TRAIN)),),
        succeeded=("Unknown", "Pending"),
        requeue=15,
        outcomes=("Infrastructure",),
    ),
    "the former pod is on a lost node: it blocks nothing": Row(
        status=FIRST_LOST | {"conditions": [retrying(60)]},
        train=(deleting(TRAIN),),
        pods=(NODE_LOST_POD,),
        succeeded=("Unknown", "Pending"),
        applied=(train_job(2)["metadata"]["name"],),
        requeue=15,
        outcomes=("Infrastructure", "Running"),
    ),
    "the attempt's node is lost: its Job goes": Row(
        status=prepared(attempt()),
        train=(TRAIN,),
        pods=(NODE_LOST_POD,),
        succeeded=("Unknown", "Retrying"),
        deleted=(TRAIN_NAME,),
        requeue=10,
        outcomes=("Infrastructure",),
    ),
    "a claim that vanished between attempts is waited for": Row(
        status=FIRST_LOST | {"conditions": [retrying(60)]},
        missing=("work",),
        succeeded=("Unknown", "WaitingForPersistentVolumeClaim"),
        requeue=30,
        outcomes=("Infrastructure",),
    ),
    # Suspend
    "suspended before anything: nothing is made": Row(spec=SUSPEND, succeeded=("Unknown", "Suspended")),
    "suspended while preparing: the data Job goes": Row(
        spec=SUSPEND, data=(DATA,), pods=(pod_of(DATA),), succeeded=("Unknown", "Suspended"), deleted=(DATA_NAME,)
    ),
    "suspended while training: the Job goes, the attempt is Suspended": Row(
        spec=SUSPEND,
        status=prepared(attempt()),
        train=(TRAIN,),
        pods=(pod_of(TRAIN),),
        succeeded=("Unknown", "Suspended"),
        deleted=(TRAIN_NAME,),
        outcomes=("Suspended",),
    ),
    "killed between the deletion and its record: still Suspended": Row(
        spec=SUSPEND,
        status=prepared(attempt()),
        train=(deleting(TRAIN),),
        succeeded=("Unknown", "Suspended"),
        outcomes=("Suspended",),
    ),
    "suspended and at rest": Row(
        spec=SUSPEND,
        status=prepared(attempt(1, "Suspended")),
        succeeded=("Unknown", "Suspended"),
        outcomes=("Suspended",),
    ),
    "suspended after a crash of the data Job: no new one": Row(
        spec=SUSPEND,
        data=(failed(DATA, age=4),),
        pods=(ended_pod(DATA, exit_code=1),),
        succeeded=("Unknown", "Suspended"),
    ),
    "resumed: the next attempt, without a pause": Row(
        status=prepared(attempt(1, "Suspended")),
        succeeded=("Unknown", "Pending"),
        applied=(train_job(2)["metadata"]["name"],),
        requeue=15,
        outcomes=("Suspended", "Running"),
    ),
    "resumed while the former pod stops: waits": Row(
        status=prepared(attempt(1, "Suspended")),
        train=(deleting(TRAIN),),
        pods=(deleting(pod_of(TRAIN)),),
        succeeded=("Unknown", "Pending"),
        requeue=15,
        outcomes=("Suspended",),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
@pytest.mark.row(26, 29, 30, 31, 32, 33, 37, 39)
def test_the_next_step(row):
    plan = decide_row(row)
    assert summary(plan.status) == row.succeeded
    assert tuple(names(plan.apply)) == row.applied
    assert tuple(names(plan.delete)) == row.deleted
    assert plan.requeue_after == row.requeue
    assert row.says in message_of(plan.status)
    if row.outcomes:
        assert tuple(a["outcome"] for a in plan.status["attempts"]) == row.outcomes
    json.dumps(plan.status)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_second_pass_over_its_own_status_writes_nothing_new(row):
    """Where the same things are seen, status settles after one write: no pass that undoes another one."""
    first = decide_row(row)
    again = decide_row(Row(**{**row.__dict__, "status": first.status}))
    if not first.apply and not first.delete and first.requeue_after != 0:
        third = decide_row(Row(**{**row.__dict__, "status": again.status}))
        assert third.status == again.status
    if summary(first.status)[0] != "Unknown":
        assert again.status == first.status
        assert again.events == ()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_an_end_is_stalled_or_settled_and_has_a_time(row):
    plan = decide_row(row)
    state = summary(plan.status)[0]
    assert ("completionTime" in plan.status) == (state != "Unknown")
    assert summary(plan.status, "Stalled")[0] == ("True" if state == "False" else "absent")
    assert summary(plan.status, "Reconciling")[0] == ("True" if state == "Unknown" else "absent")
    if state == "False":
        assert plan.status["error"]["code"] == summary(plan.status, "Stalled")[1] == summary(plan.status)[1]


def test_a_report_job_that_was_lost_is_told_once():
    row = ROWS["the report Job ran out of memory just now: the artifact may be fine"]
    once = decide_row(row).status
    seen = {"now": NOW + timedelta(seconds=5), "train_jobs": row.train, "report_jobs": row.report, "pods": row.pods}
    assert decide(make_finetunejob(status=once), Observed(settings=SETTINGS, **seen)).status == once


def test_the_result_is_in_status_before_the_next_child():
    for name in (
        "the data is prepared: status first, at once again, no child yet",
        "a lost pod: written down first, then a pause",
    ):
        plan = decide_row(ROWS[name])
        assert plan.status_first
        assert plan.apply == ()


def test_the_longest_output_fits_into_status():
    obj = make_finetunejob("a" * 40, output={"uri": LONGEST_URI}, status=prepared(attempt()))
    places = find_places(obj, FineTuneJobSpec.model_validate(obj["spec"]))
    job = stored(build_train_job(obj, SPEC, FineTuneJobStatus(), SETTINGS, number=1))
    pod = ended_pod(job, result=step_result(details=train_details(places.artifact.container_path)))
    plan = decide(obj, Observed(now=NOW, settings=SETTINGS, train_jobs=(complete(job),), pods=(pod,)))
    assert plan.status["artifact"]["uri"].startswith(LONGEST_URI)
    assert refusals({**obj, "status": plan.status}) == []


def test_what_prepare_found_is_in_status():
    status = decide_row(ROWS["the data is prepared: status first, at once again, no child yet"]).status
    run = f"pvc://work/luthier/tickets-{OBJ['metadata']['uid'][:8]}"
    assert status["dataset"]["train"] == 96
    assert status["dataset"]["findings"] == PREPARE_DETAILS["findings"]
    assert status["dataset"]["testUri"] == f"{run}/data/test.jsonl"
    assert status["dataset"]["reportUri"] == f"{run}/data/report.json"
    assert status["lineage"]["baseModelDigest"] == PREPARE_DETAILS["base_digest"]
    assert summary(status, "DatasetReady") == ("True", "Prepared")


def test_the_artifact_and_the_cost_are_in_status():
    status = decide_row(ROWS["trained: the run has succeeded"]).status
    assert status["artifact"]["digest"] == MODEL_DIGEST
    assert status["artifact"]["baseModelUri"] == "pvc://models/smol"
    assert status["cost"] == {
        "gpuSeconds": 0,
        "cpuSeconds": 15,
        "countedPods": [ended_pod(TRAIN)["metadata"]["uid"]],
    }
    assert status["progress"]["percent"] == 100
    assert status["progress"]["estimatedRemainingSeconds"] == 0
    assert status["progress"]["loss"] == "0.5123"
    assert summary(status, "Training") == ("False", "Succeeded")


def test_an_error_names_its_field():
    status = decide_row(ROWS["a broken row ends the run with file and line"]).status
    assert status["error"]["field"] == "spec.dataset.sources[0]"
    assert summary(status, "DatasetReady") == ("False", "InvalidRow")


def test_the_wait_for_a_claim_keeps_its_since():
    row = ROWS["a missing claim is waited for, and nothing is made"]
    first = decide_row(row).status
    obj = make_finetunejob(status=first)
    later = decide(obj, Observed(now=NOW + timedelta(hours=3), settings=SETTINGS, missing_claims=("models",)))
    assert later.status == first


def running(status: dict[str, Any], report: ProgressReport | None, *, after: float):
    seen = Observed(
        now=NOW + timedelta(seconds=after),
        settings=SETTINGS,
        train_jobs=(TRAIN,),
        pods=(pod_of(TRAIN),),
        progress=report,
    )
    return decide(make_finetunejob(status=status), seen)


def report(step: int, phase: str = "Training") -> ProgressReport:
    return ProgressReport.model_validate(
        {"step": step, "of": 36, "epoch": step / 12, "loss": 1.23456, "phase": phase, "estimated_remaining_seconds": 50}
    )


def test_progress_is_written_each_half_minute_and_at_milestones():
    first = running(prepared(attempt()), report(0, "Loading"), after=0)
    assert first.status["progress"]["percent"] == 0
    milestone = running(first.status, report(1), after=2)
    assert milestone.status["progress"]["step"] == 1
    too_soon = running(milestone.status, report(9), after=31)
    assert too_soon.status == milestone.status
    due = running(milestone.status, report(9), after=32)
    assert due.status["progress"] == {
        "step": 9,
        "of": 36,
        "percent": 25,
        "epoch": "0.75",
        "loss": "1.235",
        "estimatedRemainingSeconds": 50,
        "lastUpdated": at(32),
    }
    assert due.status["conditions"] == milestone.status["conditions"]


def test_a_pod_that_does_not_answer_changes_nothing():
    first = running(prepared(attempt()), report(9), after=0)
    assert running(first.status, None, after=300).status == first.status


@pytest.mark.row(26)
def test_terminal_is_terminal():
    ended = decide_row(ROWS["trained: the run has succeeded"]).status
    plan = decide(make_finetunejob(status=ended), Observed(now=NOW + timedelta(days=1), settings=SETTINGS))
    assert plan.status == ended
    assert (plan.apply, plan.delete, plan.events, plan.requeue_after) == ((), (), (), None)


def test_a_spec_change_after_the_end_is_observed_and_changes_no_condition():
    ended = decide_row(ROWS["trained: the run has succeeded"]).status
    obj = make_finetunejob(status=ended, generation=2, suspend=True)
    plan = decide(obj, Observed(now=NOW + timedelta(days=1), settings=SETTINGS, train_jobs=(complete(TRAIN),)))
    assert plan.status["observedGeneration"] == 2
    assert message_of(plan.status) == message_of(ended)
    assert (summary(plan.status), plan.delete, plan.events) == (("True", "Succeeded"), (), ())


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.succeeded[0] != "Unknown"])
def test_an_end_is_told_for_every_later_generation_and_else_as_it_was(name):
    ended = decide_row(ROWS[name]).status
    obj = make_finetunejob(generation=2, status=ended, ttlSecondsAfterFinished=60)
    plan = decide(obj, Observed(now=NOW, settings=SETTINGS))
    assert {c["observedGeneration"] for c in plan.status["conditions"]} == {plan.status["observedGeneration"]} == {2}
    conditions = [{**c, "observedGeneration": 1} for c in plan.status["conditions"]]
    assert plan.status | {"conditions": conditions, "observedGeneration": 1} == ended
    assert plan.events == ()


def test_an_old_error_goes_when_work_goes_on():
    row = ROWS["all claims there: the data Job is made"]
    status = {"error": {"code": "Refused", "message": "quota"}}
    assert "error" not in decide_row(Row(**{**row.__dict__, "status": status})).status


def test_jobs_go_after_their_time_and_not_before():
    ended = decide_row(ROWS["trained: the run has succeeded"]).status
    obj = make_finetunejob(status=ended, ttlSecondsAfterFinished=100)
    jobs_left = {"prepare_jobs": (complete(DATA),), "train_jobs": (complete(TRAIN),)}
    before = decide(obj, Observed(now=NOW + timedelta(seconds=40), settings=SETTINGS, **jobs_left))
    assert (before.delete, before.requeue_after) == ((), 60)
    after = decide(obj, Observed(now=NOW + timedelta(seconds=100), settings=SETTINGS, **jobs_left))
    assert names(after.delete) == [DATA_NAME, TRAIN_NAME]
    assert after.status == ended


def test_a_job_that_still_runs_after_the_end_is_removed():
    ended = decide_row(ROWS["past activeDeadlineSeconds the run ends"]).status
    plan = decide(make_finetunejob(status=ended), Observed(now=NOW, settings=SETTINGS, train_jobs=(TRAIN,)))
    assert names(plan.delete) == [TRAIN_NAME]


def test_a_pod_that_ended_late_is_still_paid_for_once():
    ended = decide_row(ROWS["the report Job brings the result back"]).status
    obj = make_finetunejob(status=ended)
    seen = Observed(now=NOW, settings=SETTINGS, train_jobs=(complete(TRAIN),), pods=(ended_pod(TRAIN),))
    once = decide(obj, seen).status
    assert once["cost"]["cpuSeconds"] > ended["cost"]["cpuSeconds"]
    assert decide(make_finetunejob(status=once), seen).status == once


INVALID = {
    "a learning rate of zero": ({"training": {"learningRate": "0"}}, "spec.training.learningRate"),
    "a learning rate above one": ({"training": {"learningRate": "2"}}, "spec.training.learningRate"),
    "a dropout of one": ({"peft": {"dropout": "1"}}, "spec.peft.dropout"),
    "gradients clipped to nothing": ({"training": {"maxGradNorm": "0"}}, "spec.training.maxGradNorm"),
    "a batch that the processes cannot share": (
        {"training": {"globalBatchSize": 9, "perDeviceBatchSize": 2}, "distributed": {"numProcPerNode": 2}},
        "spec.training.globalBatchSize",
    ),
    "two processes on one GPU": (
        {"distributed": {"numProcPerNode": 2, "resourcesPerNode": {"limits": {"nvidia.com/gpu": "1"}}}},
        "spec.distributed.numProcPerNode",
    ),
    "an output inside the base model": ({"output": {"uri": "pvc://models/smol/tuned"}}, "spec.output.uri"),
    "an output inside a source folder": (
        {"dataset": {"sources": [{"uri": "pvc://all/data"}]}, "output": {"uri": "pvc://all/data/out"}},
        "spec.output.uri",
    ),
    "a stored object that today's rules refuse": ({"training": {"epochs": -1}}, "spec.training.epochs"),
}


@pytest.mark.parametrize(("spec", "where"), INVALID.values(), ids=INVALID.keys())
def test_what_cannot_work_is_refused_with_its_field(spec, where):
    with pytest.raises(InvalidSpec) as error:
        decide(make_finetunejob(**spec), Observed(now=NOW, settings=SETTINGS))
    assert error.value.field == where


BY_FORMER_RULES = {
    "a run goes on": Row(
        status=prepared(attempt()), train=(TRAIN,), pods=(pod_of(TRAIN),), succeeded=("Unknown", "Training")
    ),
    "a data Job goes on": Row(data=(DATA,), pods=(pod_of(DATA),), succeeded=("Unknown", "Preparing")),
    "a result is taken": Row(
        status=prepared(attempt()),
        train=(complete(TRAIN),),
        pods=(ended_pod(TRAIN, result=TRAINED),),
        succeeded=("True", "Succeeded"),
    ),
    "suspending stops it": Row(
        spec=SUSPEND,
        status=prepared(attempt()),
        train=(TRAIN,),
        pods=(pod_of(TRAIN),),
        succeeded=("Unknown", "Suspended"),
        deleted=(TRAIN_NAME,),
    ),
}


@pytest.mark.parametrize("row", BY_FORMER_RULES.values(), ids=BY_FORMER_RULES.keys())
@pytest.mark.row(43)
def test_what_runs_ends_by_the_defaults_of_its_day(row):
    """The platform's defaults now give two GPUs to one process: refused for a new Job alone."""
    settings = Settings(_env_file=None, default_training_resources={"limits": {"nvidia.com/gpu": "2"}})
    seen = {"now": NOW, "settings": settings, "prepare_jobs": row.data, "train_jobs": row.train, "pods": row.pods}
    plan = decide(make_finetunejob(status=row.status, **row.spec), Observed(**seen))
    assert summary(plan.status) == row.succeeded
    assert tuple(names(plan.delete)) == row.deleted
    with pytest.raises(InvalidSpec):
        decide(OBJ, Observed(now=NOW, settings=settings))


def test_one_claim_may_hold_everything():
    obj = make_finetunejob(
        model={"uri": "pvc://all/model"},
        dataset={"sources": [{"uri": "pvc://all/data.jsonl"}]},
        output={"uri": "pvc://all/out"},
        workspace=None,
    )
    assert names(decide(obj, Observed(now=NOW, settings=SETTINGS)).apply)


def test_the_list_of_attempts_stays_bounded_and_keeps_failures():
    attempts = [attempt(1, "UserError"), *(attempt(n, "Suspended") for n in range(2, 129))]
    plan = decide(make_finetunejob(status=prepared(*attempts)), Observed(now=NOW, settings=SETTINGS))
    kept = plan.status["attempts"]
    assert len(kept) == 128
    assert (kept[0]["number"], kept[1]["number"], kept[-1]["number"]) == (1, 3, 129)
