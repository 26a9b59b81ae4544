"""Who is at fault when a Job ends, and what its pod took."""

from datetime import timedelta

import pytest

from factories import make_finetunejob
from jobworld import (
    NOW,
    complete,
    deleting,
    ended_pod,
    failed,
    failed_by_rule,
    pod_of,
    step_result,
    stored,
    waiting_pod,
    with_condition,
)
from luthier import jobs
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.finetune.build import build_train_job
from luthier.settings import Settings


def train_job():
    obj = make_finetunejob()
    spec = FineTuneJobSpec.model_validate(obj["spec"])
    return stored(build_train_job(obj, spec, FineTuneJobStatus(), Settings(), number=1))


JOB = train_job()
USER_ERROR = step_result("UserError", "NumericalError", "the loss is NaN at step 12")
NAMED_FIELD = step_result("UserError", "InvalidSpec", "no such layer", field="spec.peft.targetModules")
PREEMPTED = step_result("Preempted", "Preempted", "saved step 40")
INTERNAL = step_result("InternalError", "InternalError", "the disk is full")
DISRUPTED = with_condition(
    ended_pod(JOB, exit_code=20, result=PREEMPTED), "DisruptionTarget", reason="EvictionByEvictionAPI"
)
UNSCHEDULABLE = with_condition(
    pod_of(JOB, "Pending"), "PodScheduled", status="False", reason="Unschedulable", message="0/1 nodes: no GPU"
)

ENDINGS = {
    "a Job without a condition has not ended": (JOB, [pod_of(JOB)], None),
    "complete with a valid message succeeded": (
        complete(JOB),
        [ended_pod(JOB, result=step_result())],
        ("Succeeded", "Succeeded", False),
    ),
    "complete without its pod lost the result": (complete(JOB), [], ("ResultLost", "ResultLost", False)),
    "complete with a broken message lost the result": (
        complete(JOB),
        [ended_pod(JOB, result={"outcome": "Great"})],
        ("ResultLost", "ResultLost", False),
    ),
    "a complete Job that reports a user error is believed": (
        complete(JOB),
        [ended_pod(JOB, result=USER_ERROR)],
        ("UserError", "NumericalError", False),
    ),
    "exit code 10 is the user's, with the message's reason": (
        failed_by_rule(JOB, 1),
        [ended_pod(JOB, exit_code=10, result=USER_ERROR)],
        ("UserError", "NumericalError", False),
    ),
    "a user error that names a field is final": (
        failed_by_rule(JOB, 1),
        [ended_pod(JOB, exit_code=10, result=NAMED_FIELD)],
        ("UserError", "InvalidSpec", True),
    ),
    "exit code 10 without its pod is still the user's": (
        failed_by_rule(JOB, 1),
        [],
        ("UserError", "UserError", False),
    ),
    "a disruption comes before the exit code": (
        failed_by_rule(JOB, 0),
        [with_condition(ended_pod(JOB, exit_code=10, result=USER_ERROR), "DisruptionTarget")],
        ("Infrastructure", "PodLost", False),
    ),
    "a disruption is known from the Job when the pod is gone": (
        failed_by_rule(JOB, 0),
        [],
        ("Infrastructure", "PodLost", False),
    ),
    "the Job's word of a disruption comes before the pod's exit code": (
        failed_by_rule(JOB, 0),
        [ended_pod(JOB, exit_code=10, result=USER_ERROR)],
        ("Infrastructure", "PodLost", False),
    ),
    "a disruption is known from the pod": (failed(JOB), [DISRUPTED], ("Infrastructure", "PodLost", False)),
    "preempted with a saved checkpoint is infrastructure": (
        failed_by_rule(JOB, 2),
        [ended_pod(JOB, exit_code=20, result=PREEMPTED)],
        ("Infrastructure", "Preempted", False),
    ),
    "preempted without its pod is infrastructure": (
        failed_by_rule(JOB, 2),
        [],
        ("Infrastructure", "PodLost", False),
    ),
    "evicted without a condition is infrastructure": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=137, reason="Error") | {"status": {"phase": "Failed", "reason": "Evicted"}}],
        ("Infrastructure", "PodLost", False),
    ),
    "a failed Job without a pod is infrastructure": (
        failed(JOB, "BackoffLimitExceeded"),
        [],
        ("Infrastructure", "PodLost", False),
    ),
    "killed from outside is infrastructure": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=137)],
        ("Infrastructure", "PodLost", False),
    ),
    "out of memory is the run's own": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=137, reason="OOMKilled")],
        ("UserError", "OutOfMemory", False),
    ),
    "a crash with a result has that result's reason": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=1, result=INTERNAL)],
        ("UserError", "InternalError", False),
    ),
    "a crash without a result is a failed container": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=3)],
        ("UserError", "ContainerFailed", False),
    ),
    "a success in the message of a failed pod is not believed": (
        failed(JOB, "BackoffLimitExceeded"),
        [ended_pod(JOB, exit_code=1, result=step_result())],
        ("UserError", "ContainerFailed", False),
    ),
    "past the deadline is final": (
        failed(JOB, "DeadlineExceeded"),
        [ended_pod(JOB, exit_code=20, result=PREEMPTED)],
        ("UserError", "DeadlineExceeded", True),
    ),
    "another Job's pod says nothing": (
        complete(JOB),
        [ended_pod({**JOB, "metadata": {**JOB["metadata"], "uid": "other"}}, result=step_result())],
        ("ResultLost", "ResultLost", False),
    ),
}


@pytest.mark.parametrize(("job", "pods", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.row(29, 30, 31, 35)
def test_a_job_is_judged_by_who_is_at_fault(job, pods, expected):
    ending = jobs.judge_job(job, pods, container="trainer")
    assert (ending and (str(ending.outcome), str(ending.reason), ending.final)) == expected


def test_the_result_reason_and_message_are_kept():
    job, pods, _ = ENDINGS["exit code 10 is the user's, with the message's reason"]
    ending = jobs.judge_job(job, pods, container="trainer")
    assert ending is not None
    assert ending.message == "the loss is NaN at step 12"


PENDING = {
    "no pod yet": (None, "waits for its pod"),
    "an image that does not come": (
        waiting_pod(JOB, "ImagePullBackOff", 'Back-off pulling image "x"'),
        'ImagePullBackOff: Back-off pulling image "x"',
    ),
    "no node has room": (UNSCHEDULABLE, "Unschedulable: 0/1 nodes: no GPU"),
    "on its way": (pod_of(JOB, "Pending"), "its pod is starting"),
    "running needs no explanation": (pod_of(JOB), None),
}


@pytest.mark.parametrize(("pod", "expected"), PENDING.values(), ids=PENDING.keys())
@pytest.mark.row(32, 33)
def test_a_pod_that_does_not_run_is_explained(pod, expected):
    assert jobs.explain_pod(pod) == expected


@pytest.mark.row(29)
def test_a_stuck_pod_blocks_nothing_after_a_minute():
    pod = deleting(pod_of(JOB), due=-59)
    assert not jobs.is_stuck(pod, NOW)
    assert jobs.is_stuck(pod, NOW + timedelta(seconds=2))
    assert not jobs.is_stuck(deleting(ended_pod(JOB), due=-500), NOW)


def test_pauses_double_up_to_five_minutes():
    assert [jobs.back_off_seconds(n) for n in (0, 1, 2, 3, 6, 7, 100)] == [10, 10, 20, 40, 300, 300, 300]


def test_usage_is_requests_times_seconds():
    usage = jobs.usage_of(ended_pod(JOB), gpu="nvidia.com/gpu")
    assert usage is not None
    assert (usage.gpu_seconds, usage.cpu_seconds) == (0, 15)  # 30 s of 500m


def test_gpus_are_counted_instead_of_cpus():
    pod = ended_pod(JOB)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "2", "cpu": "8"}}
    usage = jobs.usage_of(pod, gpu="nvidia.com/gpu")
    assert usage is not None
    assert (usage.gpu_seconds, usage.cpu_seconds) == (60, 0)


def test_a_pod_that_never_started_or_still_runs_costs_nothing_yet():
    never = ended_pod(JOB)
    del never["status"]["startTime"]
    assert jobs.usage_of(never, gpu="g") is None
    assert jobs.usage_of(pod_of(JOB), gpu="g") is None


def test_a_lost_pod_without_a_finish_time_costs_until_its_deletion():
    pod = deleting(pod_of(JOB, "Failed"), due=-10)
    assert jobs.usage_of(pod, gpu="g").cpu_seconds == 15
    assert jobs.usage_of(pod_of(JOB, "Failed"), gpu="g") is None


def test_the_rules_put_disruption_before_exit_codes_and_end_the_job_each_time():
    rules = jobs.failure_rules("trainer")
    assert "onPodConditions" in rules[0]
    assert [r["onExitCodes"]["values"] for r in rules[1:]] == [[10], [20]]
    assert {r["action"] for r in rules} == {"FailJob"}
