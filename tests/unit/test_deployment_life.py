"""Whole lives of a ModelDeployment on a world in memory: `observe` and `decide` run unchanged."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest

from factories import make_modeldeployment
from luthier.deployment.build import WITHDRAWN_ANNOTATION
from luthier.deployment.revision import COPY_ANNOTATION, MAX_COPY_BYTES, copy_record, parse_copy
from luthier.errors import Conflict
from luthier.status import format_time
from servinglife import ANALYSIS, entry, serving
from servingworld import OTHER_DIGEST, Behaviour, Killed, World, passed_evaluation


def without_gates(evaluation: dict) -> dict:
    spec = {key: value for key, value in evaluation["spec"].items() if key != "gates"}
    return {**evaluation, "spec": spec}


# First deployment


def test_the_first_revision_gets_all_traffic_once_it_is_ready():
    world = World(pods_become="pending")
    world.settle()
    assert world.condition("Ready") == "False/RollingOut"
    assert world.condition("Serving") == "False/RollingOut"
    assert world.weights() == {}
    world.set_ready("r1", True)
    world.settle()
    assert world.weights() == {"r1": 100}
    assert world.condition("Serving") == "True/Serving"
    assert entry(world)["outcome"] == "Promoted"
    assert entry(world)["reason"] == "Initial"
    assert "rollout" not in world.status
    assert world.status["stable"]["modelDigest"] == world.job["status"]["artifact"]["digest"]


def test_a_settled_world_is_not_written_again():
    world = serving()
    writes = len(world.log)
    world.tick(times=3)
    assert len(world.log) == writes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"job": None}, "Reconciling=WaitingForFineTuneJob"),
        ({"evaluation": None}, "Reconciling=WaitingForEvaluation"),
        ({"evaluation": passed_evaluation(verdict=None)}, "Reconciling=WaitingForEvaluation"),
        ({"evaluation": passed_evaluation(verdict="Failed")}, "Stalled=EvaluationNotPassed"),
        ({"evaluation": without_gates(passed_evaluation())}, "Stalled=EvaluationNotPassed"),
        ({"evaluation": without_gates(passed_evaluation(verdict=None))}, "Stalled=EvaluationNotPassed"),
        ({"evaluation": passed_evaluation(digest=OTHER_DIGEST)}, "Stalled=EvaluationDigestMismatch"),
        ({"evaluation": passed_evaluation(servingProfile={"maxModelLen": 256})}, "Stalled=ServingProfileMismatch"),
        ({"claims": frozenset({"models"})}, "Reconciling=WaitingForPersistentVolumeClaim"),
    ],
)
def test_nothing_is_made_before_the_model_is_admitted(change, reason):
    world = World(**change)
    plan = world.settle()
    type_, _, expected = reason.partition("=")
    assert world.condition(type_) == f"True/{expected}"
    assert world.condition("Ready") == f"False/{expected}"
    assert world.children == {}
    assert (plan.requeue_after == 30) == (type_ == "Reconciling")


def test_an_evaluation_without_gates_admits_nothing_and_the_message_says_what_does():
    world = World(evaluation=without_gates(passed_evaluation()))
    world.settle()
    assert "has no spec.gates" in world.message("Stalled")
    assert "at least one gate" in world.message("Stalled")


def test_an_evaluation_that_is_too_old_admits_nothing():
    world = World()
    world.spec(requireEvaluation={"maxAgeSeconds": 3600})
    world.settle()
    assert world.condition("Stalled") == "True/EvaluationTooOld"
    assert "maxAgeSeconds" in world.message("Stalled")


def test_a_digest_mismatch_shows_both_digests_short():
    world = World(evaluation=passed_evaluation(digest=OTHER_DIGEST))
    world.settle()
    assert "sha256:cccccccccccc…" in world.message("Stalled")
    assert "sha256:aaaaaaaaaaaa…" in world.message("Stalled")


def test_another_profile_under_warn_is_an_event():
    world = World(evaluation=passed_evaluation(servingProfile={"maxModelLen": 256}))
    world.spec(requireEvaluation={"profileMatch": "Warn"})
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    [warning] = [e for e in world.events if e.reason == "ServingProfileMismatch"]
    assert "maxModelLen 1024 served, 256 judged" in warning.message


def test_an_artifact_uri_takes_its_digest_from_the_evaluation():
    world = World(job=None)
    world.spec(
        model={"fineTuneJob": None, "artifactUri": "pvc://artifacts/a", "baseModelUri": "pvc://models/smol"},
    )
    world.settle()
    assert world.status["stable"]["modelDigest"] == world.evaluation["status"]["modelDigest"]


# Rollout


def test_a_healthy_candidate_is_promoted_step_by_step():
    world = serving()
    world.successor()
    seen = []
    assert world.run(
        600,
        until=lambda: (
            seen.append(world.weights().get("r2", 0))
            or world.condition("Stalled")
            or world.status["stable"]["name"].startswith("r2")
        ),
    )
    assert list(dict.fromkeys(seen)) == [0, 10, 50, 100] or list(dict.fromkeys(seen)) == [10, 50, 100]
    assert entry(world)["outcome"] == "Promoted"
    assert world.condition("Ready") == "True/Promoted"
    assert world.status["verdict"] == "Promoted(r2)"
    assert world.replicas("r1") == 1  # stays for a way back
    world.run(70)
    assert world.replicas("r1") == 0
    assert world.weights() == {"r2": 100}


@pytest.mark.row(53)
def test_a_breaching_candidate_is_taken_back_with_numbers():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.4)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}
    assert entry(world)["outcome"] == "RolledBack"
    assert entry(world)["reason"] == "AnalysisFailed"
    assert "errors" in entry(world)["message"]
    assert "evidence" in entry(world)["message"]
    assert entry(world)["metrics"][0]["candidateBad"] >= 3
    assert entry(world)["breachSeenAt"] <= entry(world)["weightWrittenAt"]
    assert world.status["verdict"].startswith("RolledBack(r2: errors ")
    [event] = [e for e in world.events if e.reason == "RolledBack"]
    assert event.type == "Warning"
    assert "≥ 100" in event.message
    assert world.condition("Serving") == "True/Serving"
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.condition("Ready") == "False/RolledBack"
    assert world.replicas("r2") == 1
    world.run(70)
    assert world.replicas("r2") == 0
    assert world.status["rejected"].startswith("r2-")


@pytest.mark.row(53)
def test_a_breach_in_a_pause_is_seen_too():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(30)
    assert world.condition("Ready") == "False/WaitingForApproval"
    world.behaviour["r2"] = Behaviour(errors=0.5)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    assert entry(world)["reason"] == "AnalysisFailed"


def test_invalid_answers_are_a_breach():
    world = serving(analysis={"metrics": [{"name": "FormatValidity"}]})
    world.behaviour["r2"] = Behaviour(invalid=0.5)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    assert "invalid answers" in entry(world)["message"]


def test_answers_over_the_ceiling_are_a_breach():
    world = serving(analysis={"metrics": [{"name": "LatencyCeiling", "ceilingSeconds": "3"}]})
    world.behaviour["r2"] = Behaviour(seconds=5)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    assert "over 3 s" in entry(world)["message"]


def test_a_slower_candidate_is_a_breach_and_an_equal_one_passes():
    steps = [{"setWeight": 50}, {"analysis": {}}]
    slow = serving(steps=steps, analysis={"metrics": [{"name": "Latency"}]})
    slow.behaviour["r2"] = Behaviour(seconds=1.6)
    slow.successor()
    assert slow.run(300, until=lambda: "candidate" not in slow.status)
    assert entry(slow)["reason"] == "AnalysisFailed", entry(slow)
    equal = serving(steps=steps, analysis={"metrics": [{"name": "Latency"}]})
    equal.successor()
    assert equal.run(300, until=lambda: "candidate" not in equal.status)
    assert entry(equal)["outcome"] == "Promoted"


def test_a_failing_stable_freezes_the_rollout():
    world = serving()
    world.successor()
    world.run(8)
    world.behaviour["r1"] = world.behaviour["r2"] = Behaviour(errors=0.5)
    world.run(60)
    assert world.status["candidate"]["name"].startswith("r2")
    assert world.weights()["r2"] == 10
    assert world.condition("Ready") == "False/BaselineUnhealthy"


@pytest.mark.row(45)
def test_without_traffic_nothing_advances():
    world = serving()
    world.rate = 0
    world.successor()
    world.run(60)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.status["verdict"] == "NotYet(0/50)"


def test_a_step_that_begins_does_not_show_the_numbers_of_the_one_before():
    world = serving(steps=[{"setWeight": 10}, {"analysis": {"minSamples": 20}}])
    shown = set()
    world.successor()
    world.run(120, until=lambda: shown.add(world.status["verdict"]) or world.status["rollout"]["step"] == 2)
    world.run(10, until=lambda: shown.add(world.status["verdict"]))
    assert {verdict for verdict in shown if "/50" in verdict} == set()
    assert any("/20" in verdict for verdict in shown)


@pytest.mark.row(50)
def test_an_undecided_step_is_held_or_rolled_back_as_the_spec_says():
    for choice, expected in (("Hold", "False/RolloutHeld"), ("Rollback", "False/RolledBack")):
        world = serving(analysis={"maxStepSeconds": 60, "onInconclusive": choice})
        world.rate = 0
        world.successor()
        world.run(74)
        assert world.condition("Ready") == expected
        assert world.weights().get("r2", 0) == (10 if choice == "Hold" else 0)
    assert entry(world)["reason"] == "AnalysisInconclusive"


def test_the_plan_is_copied_at_the_start():
    world = serving()
    world.successor()
    world.run(6)
    world.spec(rollout={"steps": [{"setWeight": 90}]})
    world.run(4)
    assert [s.get("setWeight") for s in world.status["rollout"]["steps"]] == [10, None, 50, None]


def test_an_analysis_that_is_changed_in_mid_rollout_counts_from_the_next_one_on():
    world = serving(analysis={"minSamples": 100_000})
    world.successor()
    world.run(6)
    world.spec(rollout={"analysis": {"minSamples": 1}})
    world.run(40)
    assert world.status["verdict"].endswith("/100000)")
    [drift] = [e for e in world.events if e.reason == "PlanDrift"]
    assert world.status["candidate"]["name"] in drift.message
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.settle()
    world.successor("sha256:" + "d" * 64, "tickets-3")
    assert world.run(60, until=lambda: world.status["stable"]["name"].startswith("r3-"))


# Prometheus


@pytest.mark.row(44)
def test_without_prometheus_no_weight_is_given_and_nothing_fails():
    world = serving()
    world.prometheus_error = "Prometheus at http://nowhere:9090 cannot be reached"
    world.successor()
    world.run(60)
    assert world.weights() == {"r1": 100}
    assert world.condition("Ready") == "False/MetricsUnavailable"
    assert "http://nowhere:9090" in world.message("Ready")
    assert [e.reason for e in world.events].count("MetricsUnavailable") == 1
    world.prometheus_error = None
    assert world.run(300, until=lambda: world.status["stable"]["name"].startswith("r2"))


@pytest.mark.row(44)
def test_prometheus_that_dies_in_mid_rollout_holds_the_weight():
    world = serving()
    world.successor()
    world.run(8)
    assert world.weights()["r2"] == 10
    world.prometheus_error = "down"
    world.run(40)
    assert world.weights()["r2"] == 10
    assert world.condition("Ready") == "False/MetricsUnavailable"


def test_a_prometheus_that_scrapes_no_pod_promotes_nothing_by_pauses():
    world = serving(steps=[{"setWeight": 50}, {"pause": {"durationSeconds": 10}}])
    world._scrape = lambda: None
    world.successor()
    world.run(60)
    assert world.weights() == {"r1": 100}
    assert "held; Prometheus lacks fresh numbers of 2 ready pod(s)" in world.message("Ready")


def test_a_stable_that_fails_in_a_pause_keeps_the_rest_of_the_traffic():
    world = serving(steps=[{"setWeight": 50}, {"pause": {"durationSeconds": 60}}])
    world.successor()
    world.run(20)
    world.behaviour["r1"] = world.behaviour["r2"] = Behaviour(errors=0.5)
    world.run(100)
    assert world.weights() == {"r1": 50, "r2": 50}
    assert world.condition("Ready") == "False/BaselineUnhealthy"


@pytest.mark.row(48)
def test_pods_that_are_not_scraped_hold_the_weight():
    world = serving()
    world.successor()
    world.run(8)
    pod = next(name for name in world.pods if "-r2-" in name)
    world.samples = [s for s in world.samples if s.labels["pod"] != pod]
    world.pods[pod]["metadata"]["uid"] = "another"
    scrape = world._scrape
    world._scrape = lambda: (
        scrape() or world.samples.__setitem__(slice(None), [s for s in world.samples if s.labels["pod"] != pod])
    )
    world.run(40)
    assert world.status["rollout"]["analysis"]["message"].startswith("CoverageLow")
    assert world.weights()["r2"] == 10


# Pods


def test_a_crash_looping_candidate_is_rejected_without_prometheus():
    world = serving()
    world.prometheus_error = "down"
    world.pods_become = "pending"
    world.successor()
    world.run(4)
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    world.set_ready("r2", False, restartCount=2, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended)
    world.settle()
    assert entry(world)["reason"] == "CandidateCrashLooping"
    assert "OOMKilled" in entry(world)["message"]
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.condition("Serving") == "True/Serving"


def test_weights_that_the_server_refuses_reject_the_candidate_in_its_own_words():
    world = serving()
    world.pods_become = "pending"
    world.successor()
    world.run(4)
    said = {"outcome": "UserError", "reason": "BaseMismatch", "message": "the adapter was trained on another base"}
    ended = {"terminated": {"exitCode": 11, "message": json.dumps(said)}}
    world.set_ready("r2", False, restartCount=1, state={"running": {}}, lastState=ended)
    world.settle()
    assert entry(world)["reason"] == "CandidateRefused"
    assert entry(world)["message"].startswith("the adapter was trained on another base")


def test_a_candidate_that_never_gets_ready_is_rejected_at_the_deadline():
    world = serving()
    world.spec(progressDeadlineSeconds=60)
    world.pods_become = "pending"
    world.successor()
    world.run(58)
    assert "candidate" in world.status
    world.run(10)
    assert entry(world)["reason"] == "CandidateNotReady"
    assert world.weights() == {"r1": 100}


def test_a_pod_that_is_not_ready_for_a_moment_is_no_reason_to_reject_whatever_the_rollouts_age():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.spec(progressDeadlineSeconds=60)
    world.successor()
    world.run(100)
    world.set_ready("r2", False)
    world.tick(times=2)
    world.run(40)
    assert world.condition("Ready") == "False/NoReadyPods"
    world.run(30)
    assert entry(world)["reason"] == "CandidateNotReady"  # for a deadline's time, it is one


def test_more_replicas_in_a_long_rollout_get_a_deadline_of_their_own():
    world = serving(steps=[{"setWeight": 75}, {"pause": {}}])
    world.spec(progressDeadlineSeconds=60)
    world.successor()
    world.run(100)
    world.pods_become = "pending"
    world.spec(replicas=2)
    world.tick(times=2)
    world.run(40)
    assert world.condition("Ready") == "False/WaitingForApproval"
    world.set_ready("r1", True)
    world.run(30)
    assert entry(world)["reason"] == "CandidateNotReady"


def test_a_first_revision_that_crashes_serves_nothing():
    world = World(pods_become="pending")
    world.settle()
    world.set_ready("r1", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}})
    world.settle()
    assert world.condition("Serving") == "False/RolledBack"
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.weights() == {}


def test_a_candidate_without_ready_pods_loses_its_traffic_at_once_and_gets_it_back():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    assert world.weights()["r2"] == 25
    world.set_ready("r2", False)
    plan = world.tick()
    assert world.weights() == {"r1": 100}
    assert not plan.status_first
    assert world.condition("Ready") == "False/NoReadyPods"
    world.set_ready("r2", True)
    world.settle()
    assert world.weights()["r2"] == 25


def test_traffic_that_was_taken_away_comes_back_onto_all_pods_at_once():
    world = serving(steps=[{"setWeight": 75}, {"pause": {}}])
    world.spec(replicas=2)
    world.settle()
    world.successor()
    world.run(20)
    assert world.weights()["r2"] == 75
    world.set_ready("r2", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    [one, other] = [pod for name, pod in world.pods.items() if "-r2-" in name]
    one["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    world.settle()
    assert world.weights() == {"r1": 100}
    assert "1 of 2 pods of r2" in world.message("Ready")
    other["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    world.settle()
    assert world.weights()["r2"] == 75


def test_a_candidate_that_is_back_before_the_stable_gets_its_traffic_back():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    world.set_ready("r2", False)
    world.tick()
    world.set_ready("r1", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    world.set_ready("r2", True)
    world.settle()
    assert world.weights()["r2"] == 25, "all to the stable would be all to nobody"


def test_weight_waits_for_all_pods_of_both_sides():
    world = serving()
    world.spec(replicas=2)
    world.settle()
    world.successor()
    world.tick(times=2)
    one = next(name for name in world.pods if "-r1-" in name)
    world.pods[one]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    world.obj["status"]["rollout"]["step"] = 0
    world.obj["status"]["rollout"]["weight"] = 0
    world.tick()
    assert world.status["rollout"]["step"] == 0
    assert "1 of 2 pods of r1" in world.message("Ready")


@pytest.mark.row(53)
def test_traffic_is_not_moved_onto_a_stable_without_pods():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    world.set_ready("r1", False)
    name = world.status["candidate"]["name"]
    world.spec(rollout={"abort": {"revision": name}})
    world.tick()
    assert world.weights()["r2"] == 25
    assert world.condition("Ready") == "False/CapacityShort"
    world.set_ready("r1", True)
    world.settle()
    assert world.weights() == {"r1": 100}
    assert entry(world)["outcome"] == "Aborted"


@pytest.mark.parametrize("trouble", ["abort", "no ready pod", "refused weights"])
def test_a_candidate_that_must_lose_its_traffic_anyway_does_not_wait_for_prometheus(trouble):
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    assert world.weights()["r2"] == 25
    if trouble == "abort":
        world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    elif trouble == "no ready pod":
        world.set_ready("r2", False)
    else:
        world.set_ready("r2", True, lastState={"terminated": {"exitCode": 11}})
    world.prometheus_hangs = True
    world.tick()
    assert world.weights() == {"r1": 100}


# Acts


def test_a_pause_without_duration_waits_for_the_approval_of_this_revision_and_step():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    name = world.status["candidate"]["name"]
    assert world.condition("Reconciling") == "True/WaitingForApproval"
    assert name in world.message("Ready")
    for wrong in ({"revision": "r1-00000000", "step": 2}, {"revision": name, "step": 1}):
        world.spec(rollout={"approve": wrong})
        world.run(4)
        assert world.condition("Reconciling") == "True/WaitingForApproval"
    world.spec(rollout={"approve": {"revision": name, "step": 2}})
    assert world.run(20, until=lambda: world.status["stable"]["name"] == name)


def test_an_abort_withdraws_and_the_revision_stays_rejected_until_retry_names_it():
    world = serving()
    world.successor()
    world.run(6)
    name = world.status["candidate"]["name"]
    world.spec(rollout={"abort": {"revision": name}})
    world.settle()
    assert world.weights() == {"r1": 100}
    assert world.condition("Stalled") == "True/Aborted"
    world.run(20)
    assert "candidate" not in world.status
    world.spec(rollout={"retry": {"revision": name}})
    world.settle()
    assert world.status["candidate"]["name"].startswith("r3-")
    assert world.run(400, until=lambda: world.status["stable"]["name"].startswith("r3-"))


def test_a_retry_left_in_the_spec_counts_once():
    world = serving()
    world.behaviour["r2"] = world.behaviour["r3"] = Behaviour(errors=0.5)
    world.successor()
    assert world.run(300, until=lambda: "rejected" in world.status)
    world.spec(rollout={"retry": {"revision": world.status["rejected"]}})
    world.settle()
    assert world.run(300, until=lambda: "rejected" in world.status)
    assert world.status["rejected"].startswith("r3-")
    world.run(30)
    assert "candidate" not in world.status


@pytest.mark.row(43)
def test_a_spec_changed_in_mid_rollout_supersedes_the_candidate():
    world = serving()
    world.successor()
    world.run(6)
    world.log.clear()
    world.successor("sha256:" + "d" * 64, "tickets-3")
    world.tick()
    assert world.log.index("traffic") < world.log.index("status")
    world.settle()
    assert world.status["candidate"]["name"].startswith("r3-")
    assert entry(world)["outcome"] == "Superseded"
    assert world.weights().get("r2", 0) == 0


def test_a_spec_that_is_the_stable_again_withdraws_the_candidate():
    world = serving()
    job, evaluation, spec = world.job, world.evaluation, world.obj["spec"]
    world.successor()
    world.run(6)
    world.job, world.evaluation = job, evaluation
    world.obj["spec"] = spec
    world.settle()
    assert entry(world)["outcome"] == "Aborted"
    assert entry(world)["reason"] == "Reverted"
    assert world.condition("Ready") == "True/Initial"


@pytest.mark.row(60)
def test_a_rejected_revision_comes_back_neither_by_itself_nor_by_a_detour():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    assert world.run(300, until=lambda: "rejected" in world.status)
    world.successor("sha256:" + "d" * 64, "tickets-3")
    world.settle()
    world.successor()
    world.settle()
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.status["rejected"].startswith("r2-")


def test_suspend_freezes_but_a_rollback_still_works():
    world = serving()
    world.successor()
    world.run(6)
    world.spec(suspend=True)
    world.run(50)
    assert world.weights()["r2"] == 10
    assert world.condition("Ready") == "False/Suspended"
    world.behaviour["r2"] = Behaviour(errors=0.5)
    assert world.run(200, until=lambda: "candidate" not in world.status)
    assert entry(world)["reason"] == "AnalysisFailed"


def test_settings_outside_the_hash_start_no_rollout():
    world = serving()
    world.spec(replicas=3, gateway={"hostnames": ["a.example"]})
    world.settings = world.settings.model_copy(update={"server_image": "luthier/server:next"})
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    assert world.replicas("r1") == 3
    assert world.status["url"] == "http://a.example/"
    template = world.child("Deployment", "r1")["spec"]["template"]["spec"]
    assert template["containers"][0]["image"] == "luthier/server:0.1.0"


def test_server_options_start_a_rollout():
    world = serving()
    world.spec(server={"maxNumSeqs": 4})
    world.settle()
    assert world.status["candidate"]["name"].startswith("r2-")


# Robustness


def test_deleting_job_and_evaluation_later_takes_nothing_down():
    world = serving()
    world.job = world.evaluation = None
    writes = len(world.log)
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    assert len(world.log) == writes


def test_deleting_the_evaluation_in_mid_rollout_changes_nothing():
    world = serving()
    world.successor()
    world.run(6)
    world.job = world.evaluation = None
    assert world.run(400, until=lambda: world.status["stable"]["name"].startswith("r2-"))


@pytest.mark.row(2)
def test_a_lost_status_is_rebuilt_and_nothing_is_rolled_out_again():
    world = serving()
    del world.obj["status"]
    world.settle()
    assert world.condition("Ready") == "True/Promoted"
    assert world.status["stable"]["name"].startswith("r1-")
    assert "candidate" not in world.status
    assert world.weights() == {"r1": 100}


def test_a_status_lost_in_mid_rollout_starts_the_rollout_over_with_the_same_revision():
    world = serving()
    world.successor()
    assert world.run(400, until=lambda: world.weights().get("r2") == 50)
    del world.obj["status"]
    world.tick()
    assert world.weights() == {"r1": 50, "r2": 50}, "written down first: there are no numbers yet"
    assert world.status["stable"]["name"].startswith("r1-")
    assert world.status["candidate"]["name"].startswith("r2-")
    world.run(6)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.run(400, until=lambda: world.status["stable"]["name"].startswith("r2-"))


def killed_in_rollback(at: str) -> World:
    """Return a world whose operator died in mid-rollback, and whose Prometheus is down."""
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    world.behaviour["r2"] = Behaviour(errors=0.6)
    world.fail_at = at
    with pytest.raises(Killed):
        world.run(200)
    world.fail_at = None
    world.prometheus_error = "down"
    return world


@pytest.mark.parametrize("at", ["status after traffic", "a changed child"])
def test_a_rollback_is_finished_by_the_routes_note_when_the_status_is_lost(at):
    world = killed_in_rollback(at)
    world.behaviour.clear()
    del world.obj["status"]
    seen = []
    world.run(60, until=lambda: seen.append(world.weights()))
    assert all(weights == {"r1": 100} for weights in seen)
    assert (entry(world)["outcome"], entry(world)["reason"]) == ("RolledBack", "AnalysisFailed")
    assert world.condition("Stalled") == "True/RolledBack"


@pytest.mark.parametrize("note", [{}, {"outcome": "Cancelled", "reason": "Cancelled"}, {"outcome": "RolledBack"}])
def test_a_note_of_another_version_takes_the_traffic_all_the_same(note):
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    name = world.status["candidate"]["name"]
    annotations = world.child("HTTPRoute")["metadata"].setdefault("annotations", {})
    annotations[WITHDRAWN_ANNOTATION] = json.dumps({"revision": name, **note})
    world.settle()
    assert world.weights() == {"r1": 100}
    assert entry(world)["outcome"] == "RolledBack"
    assert entry(world)["message"].startswith("as the route's note says")


def test_a_status_lost_after_a_rollback_of_all_traffic_leaves_the_earlier_revision_serving():
    """The candidate keeps everything for the moment: no pod of the stable is ready. The note says that it has to go."""
    world = serving(steps=[{"setWeight": 50}, {"analysis": {}}], watchAfterPromotionSeconds=600, watchWeight=0)
    world.successor()
    assert world.run(400, until=lambda: world.weights().get("r2") == 100)
    world.set_ready("r1", False)
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(400, until=lambda: world.condition("Reconciling") == "True/CapacityShort")
    del world.obj["status"]
    world.settle()
    assert world.status["stable"]["name"].startswith("r1-")
    assert world.weights()["r2"] == 100
    world.set_ready("r1", True)
    world.settle()
    assert world.weights() == {"r1": 100}
    assert world.condition("Stalled") == "True/RolledBack"


def test_a_status_lost_in_a_watch_without_a_share_promotes_nobody():
    world = serving(steps=[{"setWeight": 50}, {"analysis": {}}], watchAfterPromotionSeconds=600, watchWeight=0)
    world.successor()
    assert world.run(400, until=lambda: world.weights().get("r2") == 100)
    del world.obj["status"]
    world.tick()
    assert world.status["stable"]["name"].startswith("r1-")
    assert world.status["candidate"]["name"].startswith("r2-")
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(600, until=lambda: "rejected" in world.status)
    assert world.weights() == {"r1": 100}


def test_a_rejection_survives_a_lost_status():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    assert world.run(300, until=lambda: "rejected" in world.status)
    world.settle()
    del world.obj["status"]
    world.settle()
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.status["stable"]["name"].startswith("r1-")


@pytest.mark.row(2, 55)
def test_a_rollback_whose_status_write_was_lost_is_finished():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    world.behaviour["r2"] = Behaviour(errors=0.6)
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.run(200)
    assert "candidate" in world.status
    assert world.weights() == {"r1": 100}
    written_at = format_time(world.now)
    world.fail_at = None
    world.prometheus_error = "down"
    world.now += timedelta(seconds=40)
    world.tick()
    assert entry(world)["outcome"] == "RolledBack"
    assert entry(world)["weightWrittenAt"] == written_at
    assert entry(world)["breachSeenAt"] <= written_at < entry(world)["endedAt"]
    assert world.weights() == {"r1": 100}


def halted_rollback(at: str) -> World:
    """Return a world whose operator died in mid-rollback, whose route was deleted, and whose Prometheus is down."""
    world = killed_in_rollback(at)
    assert world.status["rollout"]["weight"] == 25
    world.children = {key: child for key, child in world.children.items() if key[0] != "HTTPRoute"}
    return world


def test_a_rollback_is_finished_by_what_the_deployment_says_when_the_route_is_gone_too():
    world = halted_rollback("status after traffic")
    world.settle()
    assert (entry(world)["outcome"], entry(world)["reason"]) == ("RolledBack", "AnalysisFailed")
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.weights() == {"r1": 100}


def test_a_weight_that_the_route_has_lost_does_not_come_back_without_numbers():
    world = halted_rollback("a changed child")
    seen = []
    world.run(60, until=lambda: seen.append(world.weights()))
    assert {json.dumps(weights) for weights in seen} == {'{"r1": 100}'}
    assert world.condition("Reconciling") == "True/MetricsUnavailable"
    assert "comes back when Prometheus has samples" in world.message("Reconciling")
    world.prometheus_error = None
    assert world.run(30, until=lambda: world.condition("Stalled") is not None)
    assert entry(world)["reason"] == "AnalysisFailed"
    assert all("r2" not in weights for weights in seen)


def test_a_child_that_cannot_be_written_does_not_keep_traffic_on_a_candidate_that_has_to_go():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}], abortScaleDownDelaySeconds=0)
    world.successor()
    world.run(20)
    world.behaviour["r2"] = Behaviour(errors=0.6)
    world.fail_at = "a changed child"
    with pytest.raises(Killed):
        world.run(200)
    assert world.weights() == {"r1": 100}
    assert world.replicas("r2") == 1
    world.fail_at = None
    world.tick()
    assert entry(world)["reason"] == "AnalysisFailed"
    assert world.replicas("r2") == 0


@pytest.mark.parametrize("away", [30, 60, 90])
def test_an_operator_that_was_away_catches_up_with_what_was_scraped(away):
    """Two worlds with the same traffic; in one of them, nobody decides for a while, before the breach and in it."""
    ends = []
    for is_there in (True, False):
        world = serving(analysis={"minSamples": 100_000})
        world.successor()
        world.run(20)
        for errors in (0.01, 0.5):
            world.behaviour["r2"] = Behaviour(errors=errors)
            with nullcontext() if is_there else world.without_operator():
                world.run(away)
            world.run(10)
        [metric] = entry(world)["metrics"]
        ends.append((entry(world)["reason"], entry(world)["breachSeenAt"], metric))
    assert ends[0] == ends[1]
    assert ends[0][0] == "AnalysisFailed"


def test_more_traffic_is_in_status_before_it_is_in_the_route():
    world = serving()
    world.successor()
    world.tick()
    world.fail_at = "traffic"
    with pytest.raises(Killed):
        world.run(6)
    assert world.status["rollout"]["weight"] == 10
    assert world.weights() == {"r1": 100}
    world.fail_at = None
    world.run(4)
    assert world.weights()["r2"] == 10


@pytest.mark.row(27)
def test_a_weight_that_somebody_else_wrote_is_put_back():
    world = serving()
    world.successor()
    world.run(6)
    for backend in world.child("HTTPRoute")["spec"]["rules"][0]["backendRefs"]:
        backend["weight"] = 50
    world.tick()
    assert world.weights() == {"r1": 90, "r2": 10}


def test_a_route_whose_labels_were_stripped_is_seen_and_gets_them_back():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    labels = world.child("HTTPRoute")["metadata"].pop("labels")
    world.set_ready("r2", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    assert world.child("HTTPRoute")["metadata"]["labels"] == labels


def test_a_route_of_somebody_else_says_nothing():
    world = serving(steps=[{"setWeight": 25}, {"pause": {}}])
    world.successor()
    world.run(20)
    meta = world.child("HTTPRoute")["metadata"]
    del meta["labels"]
    meta["ownerReferences"][0]["uid"] = "another"
    world.set_ready("r2", False)
    with pytest.raises(Conflict):
        world.tick()


@pytest.mark.row(57)
def test_a_gateway_that_is_missing_or_refuses_the_route_is_named_and_waited_for():
    world = World(gateway_accepts=False)
    plan = world.settle()
    assert world.condition("Ready") == "False/WaitingForGateway"
    assert "Gateway gateway has not accepted the route" in world.message("Ready")
    assert plan.requeue_after == 30
    assert "stable" not in world.status
    refused = {"type": "Accepted", "status": "False", "message": "not allowed by the listener"}
    world.child("HTTPRoute")["status"] = {"parents": [{"parentRef": {"name": "gateway"}, "conditions": [refused]}]}
    world.settle()
    assert "(not allowed by the listener)" in world.message("Ready")


def other_deployment(created: str, *, status: dict | None = None, **gateway) -> dict:
    other = make_modeldeployment("other", namespace="support-team", gateway=gateway, status=status)
    other["metadata"]["creationTimestamp"] = created
    return other


SAME = {"parentRefs": [{"name": "gateway", "namespace": "team"}]}
SERVES = {"stable": {"name": "r1-aaaaaaaa", "number": 1}}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (other_deployment("2025-12-31T00:00:00Z", **SAME), "False/RouteConflict"),
        (other_deployment("2026-01-02T00:00:00Z", **SAME), "True/Initial"),
        (other_deployment("2026-01-02T00:00:00Z", **SAME, status=SERVES), "False/RouteConflict"),
        (other_deployment("2025-12-31T00:00:00Z"), "True/Initial"),  # its own namespace's Gateway
        (other_deployment("2025-12-31T00:00:00Z", **SAME, hostnames=["a.example"]), "True/Initial"),
        (other_deployment("2025-12-31T00:00:00Z", **SAME, pathPrefix="/v1"), "True/Initial"),
    ],
)
def test_a_gateway_host_and_path_belong_to_who_serves_there_and_else_to_the_oldest(other, reason):
    world = World(others=[other])
    plan = world.settle()
    assert world.condition("Ready") == reason
    if reason == "False/RouteConflict":
        assert "support-team/other" in world.message("Ready")
        assert world.children == {}
        assert plan.requeue_after == 30
        world.others = []
        world.settle()
        assert world.condition("Ready") == "True/Initial"


def test_a_serving_object_that_moves_onto_another_ones_host_keeps_its_own_route():
    world = serving()
    world.others = [other_deployment("2025-12-31T00:00:00Z", **SAME, hostnames=["a.example"], status=SERVES)]
    world.spec(gateway={"hostnames": ["a.example"]})
    world.settle()
    assert world.condition("Ready") == "False/RouteConflict"
    assert world.condition("Serving") == "True/Serving"
    assert "hostnames" not in world.child("HTTPRoute")["spec"]


def test_old_revisions_are_pruned_but_never_the_stable():
    world = serving()
    world.spec(revisionHistoryLimit=1, rollout={"steps": [{"setWeight": 50}], "abortScaleDownDelaySeconds": 0})
    for n in range(2, 6):
        world.successor("sha256:" + str(n) * 64, f"tickets-{n}")
        assert world.run(60, until=lambda n=n: world.status["stable"]["name"].startswith(f"r{n}-"))
        world.run(4)
    kinds = sorted(kind for kind, _ in world.children)
    assert kinds.count("ControllerRevision") == 2
    assert kinds.count("Deployment") == 2
    assert world.child("Deployment", "r5") is not None


def test_a_rollout_writes_status_rarely():
    world = serving(steps=[{"setWeight": 25}, {"pause": {"durationSeconds": 300}}])
    world.successor()
    world.run(30)
    before = world.status_writes
    world.run(150)
    assert world.status_writes - before <= 150 / 15 + 2


def test_a_record_whose_status_write_was_lost_is_used_again():
    world = serving()
    before = json.loads(json.dumps(world.status))
    world.successor()
    world.tick()
    assert world.status["candidate"]["name"].startswith("r2-")
    world.obj["status"] = before
    world.tick()
    assert world.status["candidate"]["name"].startswith("r2-")
    assert len([kind for kind, _ in world.children if kind == "ControllerRevision"]) == 2


def test_waiting_for_metrics_past_the_pods_deadline_is_no_hot_loop():
    world = serving()
    world.spec(progressDeadlineSeconds=30)
    world.prometheus_error = "down"
    world.successor()
    world.run(60)
    assert world.condition("Ready") == "False/MetricsUnavailable"
    assert world.tick().requeue_after >= ANALYSIS["intervalSeconds"]


def forget(world: World, *kinds: str) -> None:
    """Delete children of the first revision."""
    world.children = {
        (kind, name): child for (kind, name), child in world.children.items() if kind not in kinds or "-r1-" not in name
    }


@pytest.mark.parametrize("beside", ["Deployment", "Service", None])
def test_a_record_that_is_deleted_is_made_again_as_it_was_whichever_other_child_goes_with_it(beside):
    world = serving()
    before = world.child("ControllerRevision", "r1")
    forget(world, "ControllerRevision", *([beside] if beside else []))
    world.settle()
    after = world.child("ControllerRevision", "r1")
    assert (after["data"], after["revision"]) == (before["data"], before["revision"])
    assert world.condition("Ready") == "True/Initial"
    assert [e.reason for e in world.events].count("RevisionRestored") == 1


@pytest.mark.parametrize(
    ("kinds", "way_out", "serving_condition"),
    [
        (("ControllerRevision",), "change the spec", "True/Serving"),
        (("ControllerRevision", "Deployment", "Service"), "restore it from a backup", "False/NoReadyPods"),
    ],
)
def test_a_record_of_which_nobody_has_a_copy_is_told_once_with_a_way_out(kinds, way_out, serving_condition):
    world = serving()
    forget(world, *kinds)
    if "Deployment" in kinds:
        world.pods.clear()
    for child in world.children.values():
        child["metadata"].get("annotations", {}).pop(COPY_ANNOTATION, None)
    world.settle()
    assert world.condition("Stalled") == "True/RevisionLost"
    assert world.condition("Serving") == serving_condition
    assert way_out in world.message("Stalled")
    assert [e.reason for e in world.events].count("RevisionLost") == 1


def test_the_longest_schema_has_a_copy_and_what_is_longer_has_none():
    world = World()
    schema = json.dumps({"enum": ['"' * 8_000]})
    world.spec(responseSchema=schema)
    world.settle()
    revision = parse_copy(world.child("Service", "r1"))
    assert revision.template == world.child("ControllerRevision", "r1")["data"]["template"]
    assert copy_record(replace(revision, template={"metadata": "x" * MAX_COPY_BYTES})) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_copy_that_somebody_has_damaged_is_none(text):
    world = serving()
    child = world.child("Deployment", "r1")
    assert parse_copy(child).name.startswith("r1-")
    child["metadata"]["annotations"][COPY_ANNOTATION] = text
    assert parse_copy(child) is None
