"""ModelDeployments on a real API server and Deployment controller, by the real operator process.

The test plays kubelet (pods become ready), gateway (accepts the route), clients and Prometheus (raw samples of
counters that grow as the route's weights say). What the operator makes of that is its own.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

from servingstage import Stage
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]


def history(stage: Stage) -> Json:
    return stage.status()["history"][0]


def test_a_rollout_goes_through_analysis_and_approval_to_all_traffic(serving: Stage):
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "the pause is reached", seconds=90)
    assert serving.weights() == {"r1": 50, "r2": 50}
    name = serving.status()["candidate"]["name"]
    serving.change(rollout={"approve": {"revision": name, "step": 4}})
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
    until(lambda: serving.weights() == {"r2": 100}, "only r2 is left in the route")

    def old_is_gone() -> bool:
        old = next(d for d in serving.list("deployments") if "-r1-" in d["metadata"]["name"])
        return old["spec"]["replicas"] == 0

    until(old_is_gone, "the old revision has no pods", seconds=30)


@pytest.mark.row(53, 55)
def test_a_breach_is_taken_back_although_the_operator_is_killed_in_mid_step(serving: Stage, operator, prometheus):
    serving.change(rollout={"analysis": {"minSamples": 100_000}})
    serving.successor()
    until(lambda: serving.weights().get("r2") == 10, "r2 has traffic", seconds=60)
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    serving.errors["r2"] = 0.6
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    until(lambda: serving.weights() == {"r1": 100}, "the weight is back", seconds=90)
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "status says so")
    assert history(serving)["reason"] == "AnalysisFailed"
    assert history(serving)["metrics"][0]["candidateBad"] >= 3
    assert serving.status()["verdict"].startswith("RolledBack(r2: errors ")
    assert serving.condition("Serving") == "True/Serving"

    def told() -> list[Json]:
        return [e for e in serving.list("events") if e["reason"] == "RolledBack"]

    assert "evidence" in until(told, "an event")[0]["message"]


@pytest.mark.row(43)
def test_an_abort_and_then_another_spec(serving: Stage):
    serving.successor()
    until(lambda: serving.weights().get("r2"), "r2 has traffic", seconds=60)
    serving.change(rollout={"abort": {"revision": serving.status()["candidate"]["name"]}})
    until(lambda: serving.condition("Stalled") == "True/Aborted", "r2 is withdrawn")
    assert serving.weights() == {"r1": 100}
    serving.successor(3)
    until(lambda: serving.status().get("candidate", {}).get("name", "").startswith("r3-"), "r3 is tried", seconds=60)
    until(lambda: serving.weights().get("r3"), "r3 has traffic", seconds=60)
    serving.successor(4)
    until(lambda: serving.status().get("candidate", {}).get("name", "").startswith("r4-"), "r4 is tried", seconds=60)
    assert history(serving)["outcome"] == "Superseded"
    assert "r3" not in serving.weights()


def is_watched(stage: Stage) -> bool:
    return stage.condition("Reconciling") == "True/Watching"


def watch(stage: Stage, *, seconds: int, share: int = 5) -> None:
    """Bring a second revision into its watch."""
    steps = [{"setWeight": 50}, {"analysis": {}}]
    stage.change(rollout={"steps": steps, "watchAfterPromotionSeconds": seconds, "watchWeight": share})
    stage.successor()
    until(lambda: is_watched(stage), "r2 is watched", seconds=90)
    assert stage.weights() == ({"r1": share} if share else {}) | {"r2": 100 - share}
    assert stage.stable() == "r1"


def test_a_watch_ends_with_a_promotion(serving: Stage):
    watch(serving, seconds=5)
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
    until(lambda: serving.weights() == {"r2": 100}, "only r2 is left in the route")
    assert history(serving)["message"].endswith("watched to the end")


def test_a_breach_in_the_watch_is_taken_back_although_the_operator_is_killed(serving: Stage, operator, prometheus):
    watch(serving, seconds=3600)
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    serving.errors["r2"] = 0.6
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    until(lambda: serving.weights() == {"r1": 100}, "the weight is back", seconds=90)
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "status says so")
    assert "the watch" in history(serving)["message"]


def test_without_a_share_a_breach_in_the_watch_is_seen_against_the_frozen_bound(serving: Stage):
    watch(serving, seconds=3600, share=0)
    assert float(serving.status()["rollout"]["watch"]["errorBoundPercent"]) < 20
    serving.errors["r2"] = 0.6
    until(lambda: serving.weights() == {"r1": 100}, "the weight is back", seconds=90)
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "status says so")
    assert history(serving)["metrics"][0]["name"] == "ErrorBound"


def test_a_new_spec_ends_the_watch_and_starts_from_the_watched_revision(serving: Stage):
    watch(serving, seconds=3600)
    serving.successor(3)
    until(lambda: serving.weights() == {"r2": 50, "r3": 50}, "r3 is compared with r2", seconds=90)
    assert serving.stable() == "r2"
    assert (history(serving)["outcome"], history(serving)["reason"]) == ("Promoted", "Promoted")


def test_in_place_there_is_never_more_than_one_pod_too_many_there_and_back(serving: Stage):
    most = 0

    def counted(done: bool) -> bool:
        nonlocal most
        most = max(most, len(serving.list("pods")))
        return done

    steps = [{"setWeight": 50}, {"pause": {}}]
    serving.change(replicas=3, rollout={"capacity": "InPlace", "steps": steps, "watchAfterPromotionSeconds": 3600})
    until(lambda: serving.status()["stable"].get("readyReplicas") == 3, "r1 has all its pods", seconds=60)
    serving.successor()
    waits = "False/WaitingForApproval"
    until(lambda: counted(serving.condition("Ready") == waits), "the pause is reached", seconds=90)
    assert serving.weights() == {"r1": 50, "r2": 50}
    serving.change(rollout={"approve": {"revision": serving.status()["candidate"]["name"], "step": 2}})
    until(lambda: counted(is_watched(serving)), "r2 is watched", seconds=90)
    until(lambda: counted(len(serving.list("pods")) == 4), "the stable is down to one pod", seconds=30)
    serving.errors["r2"] = 0.6
    until(lambda: counted(serving.weights() == {"r1": 100}), "the weight is back, pod by pod", seconds=120)
    until(lambda: counted(serving.status()["stable"].get("readyReplicas") == 3), "r1 has all its pods", seconds=60)
    assert most == 4
    assert "CapacityShort" in {event["reason"] for event in serving.list("events")}


def test_an_evicted_candidate_has_no_traffic_and_resumes_a_step_earlier(serving: Stage):
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "the pause is reached", seconds=90)
    serving.pending.add("r2")
    serving.evict("r2")
    until(lambda: serving.weights() == {"r1": 100}, "the weight is back", seconds=30)
    until(lambda: serving.condition("Ready") == "False/Interrupted", "status says so", seconds=30)
    assert history(serving)["outcome"] == "Interrupted"
    assert "resumes at step 1, 10 %" in serving.status()["conditions"][-1]["message"]
    serving.pending.clear()
    until(lambda: serving.weights() == {"r1": 90, "r2": 10}, "it goes on a step earlier", seconds=60)
    until(lambda: serving.weights() == {"r1": 50, "r2": 50}, "and then as before", seconds=60)


def test_a_crash_loop_is_rejected_without_prometheus(serving: Stage):
    serving.down = True
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such file"}}
    serving.broken["r2"] = {"restartCount": 3, "state": waiting, "lastState": ended}
    serving.successor()
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "r2 is rejected", seconds=60)
    assert history(serving)["reason"] == "CandidateCrashLooping"
    assert "no such file" in history(serving)["message"]
    assert serving.weights() == {"r1": 100}


@pytest.mark.row(44)
def test_without_prometheus_the_rollout_is_held_and_says_why(serving: Stage):
    serving.down = True
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/MetricsUnavailable", "it is held", seconds=60)
    assert serving.weights() == {"r1": 100}
    serving.down = False
    until(lambda: serving.weights().get("r2"), "it goes on", seconds=60)


def test_an_evaluation_of_another_digest_makes_nothing(serving: Stage):
    serving.evaluation("failed", "sha256:" + "9" * 64, verdict="Failed")
    serving.change(requireEvaluation={"name": "failed"})
    until(lambda: serving.condition("Stalled") == "True/EvaluationNotPassed", "it is refused", seconds=30)
    assert len(serving.list("deployments")) == 1
    assert serving.weights() == {"r1": 100}


@pytest.mark.row(8)
def test_a_settled_object_is_not_written_when_the_operator_starts_again(serving: Stage, operator, prometheus):
    def versions() -> list[str]:
        kinds = ("modeldeployments", "deployments", "services", "controllerrevisions", "httproutes")
        return [o["metadata"]["resourceVersion"] for kind in kinds for o in serving.list(kind)]

    before = versions()
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    serving.change(rollout={"analysis": {"minSamples": 21}})  # the new process has seen this generation: it is at work
    generation = serving.get("modeldeployments", "support")["metadata"]["generation"]
    until(lambda: serving.status().get("observedGeneration") == generation, "the new one is at work", seconds=60)
    assert versions()[1:] == before[1:]


def test_the_default_plan_leaves_out_what_the_traffic_cannot_decide(serving: Stage):
    serving.last_day = 40.0 * 24
    serving.change(rollout={"steps": None, "analysis": {"minSamples": 100, "maxStepSeconds": 21_600}})
    serving.successor()
    until(lambda: serving.weights() == {"r1": 50, "r2": 50}, "the only step has its weight", seconds=60)
    plan = serving.status()["rollout"]
    assert plan["steps"] == [{"setWeight": 50}, {"analysis": {}}]
    assert plan["plan"] == {"requestsLastDay": 960, "droppedWeights": [1, 5, 10, 25]}

    def told() -> list[str]:
        return [e["message"] for e in serving.list("events") if e["reason"] == "PlanChosen"]

    said = "960 requests in 24 h are too few to decide 1, 5, 10, 25 % in 6 h: the plan is 50 %"
    assert until(told, "an event") == [said]
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
