"""What an Evaluation does next, state by state: each row is a sentence."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from factories import make_evaluation, make_finetunejob
from jobworld import (
    MODEL_DIGEST,
    NOW,
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
    waiting_pod,
)
from luthier.api.evaluation import EvaluationSpec
from luthier.errors import InvalidSpec
from luthier.evaluation.build import build_eval_job, find_output, result_file
from luthier.evaluation.decide import decide
from luthier.evaluation.observe import Observed
from luthier.evaluation.target import find_target
from luthier.report import build_report_job
from luthier.settings import Settings
from offline_admission import refusals

SETTINGS = Settings(_env_file=None)
BASE_DIGEST = "sha256:" + "b" * 64
TUNED = make_finetunejob(
    status={
        "artifact": {
            "uri": "pvc://artifacts/tickets/tickets-12345678",
            "digest": MODEL_DIGEST,
            "kind": "Adapter",
            "baseModelUri": "pvc://models/smol",
            "baseModelDigest": BASE_DIGEST,
        },
        "dataset": {"test": 12, "testUri": "pvc://work/luthier/tickets-12345678/data/test.jsonl"},
        "conditions": [],
    }
)
NOTHING_HELD_OUT = make_finetunejob(status=TUNED["status"] | {"dataset": {"test": 0, "testUri": "pvc://work/x.jsonl"}})
BY_FOLDERS = {
    "target": {"fineTuneJob": None, "artifactUri": "pvc://artifacts/other", "baseModelUri": "pvc://models/smol"},
    "suites": [
        {
            "name": "held-out",
            "type": "HeldOut",
            "datasetUri": "pvc://data/held.jsonl",
            "metrics": [{"name": "exact", "type": "ExactMatch"}],
        }
    ],
}
OBJ = make_evaluation()
SPEC = EvaluationSpec.model_validate(OBJ["spec"])
TARGET = find_target(SPEC, TUNED)
assert TARGET is not None


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, Any]:
    said = {"type": type_, "status": status, "reason": reason, "message": message}
    return {**said, "observedGeneration": 1, "lastTransitionTime": at(0)}


TRAINING = make_finetunejob(status={"conditions": [condition("Succeeded", "Unknown", "Training", "attempt 1 trains")]})
BROKEN = make_finetunejob(status={"conditions": [condition("Succeeded", "False", "InvalidRow", "a.jsonl:7")]})


def eval_job(number: int = 1, target=TARGET, obj=OBJ) -> dict[str, Any]:
    spec = EvaluationSpec.model_validate(obj["spec"])
    return stored(build_eval_job(obj, spec, target, SETTINGS, number=number))


JOB = eval_job()
JOB_NAME = JOB["metadata"]["name"]
REPORT = stored(
    build_report_job(
        OBJ, step="eval-1", result=result_file(find_output(OBJ, TARGET)), settings=SETTINGS, scheduling=None
    )
)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 5.12345, "high": value + 5}


def evaluated(verdict: str = "Passed", **more: Any) -> dict[str, Any]:
    metric = {
        "name": "exact",
        "n": 12,
        "target": estimate(84.375),
        "baselines": [{"name": "base", "value": estimate(3), "difference": estimate(81)}],
    }
    gate = {
        "suite": "held-out",
        "metric": "exact",
        "outcome": verdict,
        "message": "exact 84.4 % [79.3, 89.4], asked 70 %",
    }
    details = {
        "verdict": verdict,
        "summary": f"{verdict}: exact 84.4 %",
        "results_sha256": "f" * 64,
        "suites": [{"name": "held-out", "cases": 12, "digest": "sha256:e", "metrics": [metric]}],
        "gates": [gate],
        **more,
    }
    return step_result(reason="Evaluated", details=details)


def engine_pod(*, exit_code: int, restarts: int, message: Any = None, reason: str = "Error") -> dict[str, Any]:
    """Return a pod whose engine ended and was started again."""
    pod = pod_of(JOB, "Pending")
    ended = {"exitCode": exit_code, "reason": reason, "message": json.dumps(message) if message else ""}
    pod["status"]["initContainerStatuses"] = [
        {
            "name": "engine",
            "restartCount": restarts,
            "started": False,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": ended},
        }
    ]
    return pod


LOADING = pod_of(JOB, "Pending")
LOADING["status"]["initContainerStatuses"] = [{"name": "engine", "started": False, "state": {"running": {}}}]
REFUSED = step_result("UserError", "DigestMismatch", "the folder has the digest x, not y", field="model_digest")
BAD_SUITE = step_result("UserError", "InvalidSuite", "pvc://data/general.jsonl:3: not JSON")
NO_FILE = step_result("InternalError", "ResultMissing", "step-result.json is not there: the step ended without one")
NOT_READY = step_result("InternalError", "EngineNotReady", "not ready after 900 s")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A state, and what must follow."""

    status: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    tuned: Any = field(default_factory=lambda: TUNED)
    jobs: tuple[Any, ...] = ()
    report: tuple[Any, ...] = ()
    pods: tuple[Any, ...] = ()
    missing: tuple[str, ...] = ()
    succeeded: tuple[str, str]
    applied: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    requeue: float | None = None
    says: str = ""


def decide_row(row: Row):
    seen = Observed(
        now=NOW,
        settings=SETTINGS,
        fine_tune_job=row.tuned,
        missing_claims=row.missing,
        eval_jobs=row.jobs,
        report_jobs=row.report,
        pods=row.pods,
    )
    return decide(make_evaluation(status=row.status, **row.spec), seen)


ONE = {"attempts": 1}
SUSPEND = {"suspend": True}
SECOND = eval_job(2)["metadata"]["name"]
CRASHED = ended_pod(JOB, exit_code=1, result=NOT_READY)

ROWS = {
    # Waiting
    "the FineTuneJob is not there": Row(
        tuned=None,
        succeeded=("Unknown", "WaitingForFineTuneJob"),
        requeue=30,
        says="FineTuneJob tickets does not exist in namespace team (since 2026-01-01T12:00:00Z)",
    ),
    "the FineTuneJob still trains": Row(
        tuned=TRAINING, succeeded=("Unknown", "WaitingForFineTuneJob"), requeue=30, says="has no artifact yet"
    ),
    "the FineTuneJob failed: still waiting, and the message says so": Row(
        tuned=BROKEN,
        succeeded=("Unknown", "WaitingForFineTuneJob"),
        requeue=30,
        says="FineTuneJob tickets failed (InvalidRow: a.jsonl:7)",
    ),
    "a claim is missing": Row(
        missing=("data",), succeeded=("Unknown", "WaitingForPersistentVolumeClaim"), requeue=30, says="data"
    ),
    # Running
    "all there: the first attempt": Row(succeeded=("Unknown", "Pending"), applied=(JOB_NAME,), requeue=15),
    "weights by folders need no FineTuneJob": Row(
        spec=BY_FOLDERS | {"gates": None}, tuned=None, succeeded=("Unknown", "Pending"), applied=(JOB_NAME,), requeue=15
    ),
    "an attempt exists that status does not know: not made again": Row(
        jobs=(JOB,), pods=(pod_of(JOB),), succeeded=("Unknown", "Evaluating"), requeue=30
    ),
    "the pod waits for its image": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(waiting_pod(JOB, "ErrImagePull", "no such host"),),
        succeeded=("Unknown", "Pending"),
        requeue=30,
        says="ErrImagePull",
    ),
    "the engine loads the model": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(LOADING,),
        succeeded=("Unknown", "Evaluating"),
        requeue=30,
        says="the engine loads the model",
    ),
    "the evaluator works": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(pod_of(JOB),),
        succeeded=("Unknown", "Evaluating"),
        requeue=30,
        says="cases are answered",
    ),
    "the FineTuneJob was deleted meanwhile: the attempt goes on": Row(
        status=ONE, tuned=None, jobs=(JOB,), pods=(pod_of(JOB),), succeeded=("Unknown", "Evaluating"), requeue=30
    ),
    # Verdicts
    "passed": Row(
        status=ONE, jobs=(complete(JOB),), pods=(ended_pod(JOB, result=evaluated()),), succeeded=("True", "Passed")
    ),
    "passed, though the FineTuneJob is gone by now": Row(
        status=ONE,
        tuned=None,
        jobs=(complete(JOB),),
        pods=(ended_pod(JOB, result=evaluated()),),
        succeeded=("True", "Passed"),
    ),
    "failed a gate: the end, with the numbers": Row(
        status=ONE,
        jobs=(complete(JOB),),
        pods=(ended_pod(JOB, result=evaluated("Failed")),),
        succeeded=("False", "GatesFailed"),
        says="exact 84.4 % [79.3, 89.4], asked 70 %",
    ),
    "could not decide: no success": Row(
        status=ONE,
        jobs=(complete(JOB),),
        pods=(ended_pod(JOB, result=evaluated("Inconclusive")),),
        succeeded=("False", "Inconclusive"),
    ),
    "exit 0 with details that are none": Row(
        status=ONE,
        jobs=(complete(JOB),),
        pods=(ended_pod(JOB, result=step_result(details={"verdict": "Great"})),),
        succeeded=("False", "ResultMissing"),
    ),
    "the result went with the pod: a report Job reads it": Row(
        status=ONE,
        jobs=(complete(JOB),),
        succeeded=("Unknown", "ResultLost"),
        applied=(REPORT["metadata"]["name"],),
    ),
    "the report Job runs: no second attempt meanwhile": Row(
        status=ONE, jobs=(complete(JOB),), report=(REPORT,), succeeded=("Unknown", "ResultLost"), requeue=30
    ),
    "the report Job brings it back": Row(
        status=ONE,
        jobs=(complete(JOB),),
        report=(complete(REPORT),),
        pods=(ended_pod(REPORT, result=evaluated()),),
        succeeded=("True", "Passed"),
    ),
    "the report Job finds nothing": Row(
        status=ONE,
        jobs=(complete(JOB),),
        report=(failed(REPORT),),
        pods=(ended_pod(REPORT, exit_code=1, result=NO_FILE),),
        succeeded=("False", "ResultMissing"),
    ),
    "the report Job ended without a word: another one follows": Row(
        status=ONE,
        jobs=(complete(JOB),),
        report=(failed(REPORT, age=31),),
        pods=(ended_pod(REPORT, exit_code=1),),
        succeeded=("Unknown", "ResultLost"),
        deleted=(REPORT["metadata"]["name"],),
        requeue=1,
        says="the last try ended early (ContainerFailed",
    ),
    # The engine
    "the engine refuses the weights: the end, and the Job goes": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(engine_pod(exit_code=11, restarts=1, message=REFUSED),),
        succeeded=("False", "DigestMismatch"),
        deleted=(JOB_NAME,),
        says="the folder has the digest x, not y",
    ),
    "the engine refuses without a word": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(engine_pod(exit_code=11, restarts=0),),
        succeeded=("False", "EngineFailed"),
        deleted=(JOB_NAME,),
    ),
    "the engine crashed twice: it may be started once more": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(engine_pod(exit_code=1, restarts=2),),
        succeeded=("Unknown", "Pending"),
        requeue=30,
    ),
    "the engine crashed more often than backoffLimit": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(engine_pod(exit_code=1, restarts=3, message=step_result("InternalError", "EngineFailed", "no AVX2")),),
        succeeded=("False", "EngineFailed"),
        deleted=(JOB_NAME,),
        says="no AVX2",
    ),
    "the engine ran out of memory again and again": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(engine_pod(exit_code=137, restarts=3, reason="OOMKilled"),),
        succeeded=("False", "OutOfMemory"),
        deleted=(JOB_NAME,),
        says="raise the memory limit in spec.resources",
    ),
    "the evaluator ran out of memory: only the platform gives it more": Row(
        status=ONE,
        jobs=(failed(JOB, age=4),),
        pods=(ended_pod(JOB, exit_code=137, reason="OOMKilled"),),
        succeeded=("Unknown", "Retrying"),
        requeue=6,
        says="the chart's value defaults.evaluator",
    ),
    # Attempts that end early
    "a broken suite is final": Row(
        status=ONE,
        jobs=(failed_by_rule(JOB, 1),),
        pods=(ended_pod(JOB, exit_code=10, result=BAD_SUITE),),
        succeeded=("False", "InvalidSuite"),
        says="pvc://data/general.jsonl:3: not JSON",
    ),
    "a crash just now: a pause": Row(
        status=ONE, jobs=(failed(JOB, age=4),), pods=(CRASHED,), succeeded=("Unknown", "Retrying"), requeue=6
    ),
    "a crash before: the next attempt": Row(
        status=ONE,
        jobs=(failed(JOB, age=10),),
        pods=(CRASHED,),
        succeeded=("Unknown", "Pending"),
        applied=(SECOND,),
        requeue=15,
    ),
    "one crash more than backoffLimit": Row(
        spec={"backoffLimit": 0},
        status=ONE,
        jobs=(failed(JOB, age=10),),
        pods=(CRASHED,),
        succeeded=("False", "BackoffLimitExceeded"),
        says="EngineNotReady: not ready after 900 s",
    ),
    "a lost pod does not count": Row(
        spec={"backoffLimit": 0},
        status=ONE,
        jobs=(failed_by_rule(JOB, 0, age=10),),
        succeeded=("Unknown", "Pending"),
        applied=(SECOND,),
        requeue=15,
    ),
    "the 21st loss gives up": Row(
        status={"attempts": 21},
        jobs=tuple(failed_by_rule(eval_job(n), 0, age=400) for n in range(1, 22)),
        succeeded=("False", "TooManyLosses"),
    ),
    "past activeDeadlineSeconds it ends": Row(
        status=ONE, jobs=(failed(JOB, "DeadlineExceeded"),), succeeded=("False", "DeadlineExceeded")
    ),
    "the Job was deleted by hand: the next attempt": Row(
        status=ONE, succeeded=("Unknown", "Pending"), applied=(SECOND,), requeue=15
    ),
    "its pod still stops: no second writer": Row(
        status=ONE,
        jobs=(deleting(JOB),),
        pods=(deleting(pod_of(JOB)),),
        succeeded=("Unknown", "Pending"),
        requeue=15,
        says="to stop",
    ),
    "the node is lost: the Job goes": Row(
        status=ONE,
        jobs=(JOB,),
        pods=(deleting(pod_of(JOB), due=-61),),
        succeeded=("Unknown", "Retrying"),
        deleted=(JOB_NAME,),
        requeue=1,
    ),
    # Suspend
    "suspended before anything": Row(spec=SUSPEND, succeeded=("Unknown", "Suspended")),
    "suspended while it runs: the Job goes": Row(
        spec=SUSPEND,
        status=ONE,
        jobs=(JOB,),
        pods=(pod_of(JOB),),
        succeeded=("Unknown", "Suspended"),
        deleted=(JOB_NAME,),
    ),
    "a verdict wins over a suspend that came too late": Row(
        spec=SUSPEND,
        status=ONE,
        jobs=(complete(JOB),),
        pods=(ended_pod(JOB, result=evaluated()),),
        succeeded=("True", "Passed"),
    ),
    "resumed: the next attempt": Row(
        status=ONE | {"conditions": [condition("Evaluated", "False", "Suspended", "")]},
        succeeded=("Unknown", "Pending"),
        applied=(SECOND,),
        requeue=15,
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_the_next_step(row):
    plan = decide_row(row)
    assert summary(plan.status) == row.succeeded
    assert tuple(names(plan.apply)) == row.applied
    assert tuple(names(plan.delete)) == row.deleted
    assert plan.requeue_after == row.requeue
    assert row.says in message_of(plan.status)
    json.dumps(plan.status)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_an_end_is_stalled_or_settled_and_has_a_time(row):
    plan = decide_row(row)
    state = summary(plan.status)[0]
    assert ("completionTime" in plan.status) == (state != "Unknown")
    assert summary(plan.status, "Stalled")[0] == ("True" if state == "False" else "absent")
    assert summary(plan.status, "Reconciling")[0] == ("True" if state == "Unknown" else "absent")
    if plan.delete and state == "False":
        assert plan.status_first, "an end is written down before anything goes"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_second_pass_over_its_own_status_settles(row):
    first = decide_row(row)
    again = decide_row(Row(**{**row.__dict__, "status": first.status}))
    if summary(first.status)[0] != "Unknown":
        assert again.status == first.status
        assert again.events == ()
    elif not first.apply and not first.delete:
        assert again.status["conditions"] == first.status["conditions"]


ENDS = [name for name, row in ROWS.items() if row.succeeded[0] != "Unknown"]


@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_told_for_every_later_generation_and_else_as_it_was(name):
    ended = decide_row(ROWS[name]).status
    obj = make_evaluation(generation=2, status=ended, ttlSecondsAfterFinished=60)
    plan = decide(obj, Observed(now=NOW, settings=SETTINGS))
    assert {c["observedGeneration"] for c in plan.status["conditions"]} == {plan.status["observedGeneration"]} == {2}
    conditions = [{**c, "observedGeneration": 1} for c in plan.status["conditions"]]
    assert plan.status | {"conditions": conditions, "observedGeneration": 1} == ended
    assert plan.events == ()


def test_what_was_found_is_in_status():
    status = decide_row(ROWS["passed"]).status
    out = f"pvc://artifacts/tickets/tickets-12345678/evaluations/tickets-eval-{OBJ['metadata']['uid'][:8]}"
    assert status["verdict"] == "Passed"
    assert status["modelDigest"] == MODEL_DIGEST
    assert status["servingProfile"] == {"maxModelLen": 1024, "dtype": "Auto", "quantization": "None"}
    assert status["reportUri"] == f"{out}/report.html"
    assert status["resultsDigest"] == "sha256:" + "f" * 64
    assert status["summary"] == "Passed: exact 84.4 %"
    (suite,) = status["suites"]
    assert suite["metrics"][0]["target"] == {"value": "84.38", "low": "79.25", "high": "89.38"}
    assert suite["metrics"][0]["baselines"][0]["difference"]["value"] == "81"
    assert status["gates"][0]["outcome"] == "Passed"
    assert summary(status, "Evaluated") == ("True", "Evaluated")


def test_the_report_of_the_longest_folder_fits_into_status():
    longest = "pvc://artifacts/".ljust(512, "x")
    obj = make_evaluation("a" * 40, status=ONE, **BY_FOLDERS | {"gates": None})
    obj["spec"]["target"]["artifactUri"] = longest
    job = eval_job(target=find_target(EvaluationSpec.model_validate(obj["spec"]), None), obj=obj)
    pod = ended_pod(job, result=evaluated(model_digest="sha256:a"))
    plan = decide(obj, Observed(now=NOW, settings=SETTINGS, eval_jobs=(complete(job),), pods=(pod,)))
    assert plan.status["reportUri"].startswith(longest)
    assert refusals({**obj, "status": plan.status}) == []


def test_the_digest_of_folders_comes_from_the_evaluator():
    obj = make_evaluation(status=ONE, **BY_FOLDERS, gates=None)
    spec = EvaluationSpec.model_validate(obj["spec"])
    job = eval_job(target=find_target(spec, None), obj=obj)
    found = evaluated(model_digest="sha256:from-luthier-json")
    seen = Observed(now=NOW, settings=SETTINGS, eval_jobs=(complete(job),), pods=(ended_pod(job, result=found),))
    assert decide(obj, seen).status["modelDigest"] == "sha256:from-luthier-json"
    silent = Observed(
        now=NOW, settings=SETTINGS, eval_jobs=(complete(job),), pods=(ended_pod(job, result=evaluated()),)
    )
    assert summary(decide(obj, silent).status) == ("False", "ResultMissing")


def test_terminal_is_terminal():
    ended = decide_row(ROWS["passed"]).status
    seen = Observed(now=NOW + timedelta(days=1), settings=SETTINGS, fine_tune_job=TUNED)
    plan = decide(make_evaluation(status=ended, suspend=True), seen)
    assert (plan.status, plan.apply, plan.delete, plan.events) == (ended, (), (), ())


def test_jobs_go_after_their_time_and_not_before():
    ended = decide_row(ROWS["passed"]).status
    obj = make_evaluation(status=ended, ttlSecondsAfterFinished=100)
    before = decide(obj, Observed(now=NOW, settings=SETTINGS, eval_jobs=(complete(JOB),)))
    assert (before.delete, before.requeue_after) == ((), 100)
    after = decide(obj, Observed(now=NOW + timedelta(seconds=100), settings=SETTINGS, eval_jobs=(complete(JOB),)))
    assert names(after.delete) == [JOB_NAME]


def test_the_wait_keeps_its_since():
    first = decide_row(ROWS["the FineTuneJob is not there"]).status
    seen = Observed(now=NOW + timedelta(hours=3), settings=SETTINGS)
    assert decide(make_evaluation(status=first), seen).status == first


SUITE = {"name": "held-out", "type": "HeldOut", "metrics": [{"name": "exact", "type": "ExactMatch"}]}


def schema_suite(text: str) -> list[dict[str, Any]]:
    return [{**SUITE, "metrics": [{"name": "exact", "type": "JSONSchema", "jsonSchema": text}]}]


INVALID = {
    "a baseline called target": ({"baselines": [{"name": "target"}]}, TUNED, "spec.baselines[0].name"),
    "an answer as long as the context": (
        {"servingProfile": {"maxModelLen": 256}},
        TUNED,
        "spec.suites[0].generation.maxTokens",
    ),
    "a schema that is no JSON": ({"suites": schema_suite("{type")}, TUNED, "spec.suites[0].metrics[0].jsonSchema"),
    "a schema that is a list": ({"suites": schema_suite("[]")}, TUNED, "spec.suites[0].metrics[0].jsonSchema"),
    "prompts larger than an environment variable": (
        {"baselines": [{"name": "long", "examples": [{"user": "u" * 8192, "assistant": "a" * 8192}] * 9}]},
        TUNED,
        "spec.baselines",
    ),
    "nothing was held out": ({}, NOTHING_HELD_OUT, "spec.suites[0].datasetUri"),
}


@pytest.mark.parametrize(("spec", "tuned", "where"), INVALID.values(), ids=INVALID.keys())
def test_what_cannot_work_is_refused_with_its_field(spec, tuned, where):
    with pytest.raises(InvalidSpec) as error:
        decide(make_evaluation(**spec), Observed(now=NOW, settings=SETTINGS, fine_tune_job=tuned))
    assert error.value.field == where


WRONG_BY_NOW = {"servingProfile": {"maxModelLen": 256}}
BY_FORMER_RULES = {
    "an attempt goes on": Row(status=ONE, jobs=(JOB,), pods=(pod_of(JOB),), succeeded=("Unknown", "Evaluating")),
    "a verdict is taken": Row(
        status=ONE, jobs=(complete(JOB),), pods=(ended_pod(JOB, result=evaluated()),), succeeded=("True", "Passed")
    ),
    "suspending stops it": Row(
        status=ONE, spec=SUSPEND, jobs=(JOB,), deleted=(JOB_NAME,), succeeded=("Unknown", "Suspended")
    ),
}


@pytest.mark.parametrize("row", BY_FORMER_RULES.values(), ids=BY_FORMER_RULES.keys())
def test_what_runs_ends_by_the_rules_of_its_day(row):
    seen = Observed(now=NOW, settings=SETTINGS, fine_tune_job=TUNED, eval_jobs=row.jobs, pods=row.pods)
    plan = decide(make_evaluation(status=row.status, **row.spec, **WRONG_BY_NOW), seen)
    assert summary(plan.status) == row.succeeded
    assert tuple(names(plan.delete)) == row.deleted
