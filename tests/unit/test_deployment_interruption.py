"""Pods that the platform takes from a candidate: no traffic at once, a step back, twice; then people decide."""

from __future__ import annotations

from datetime import timedelta

import pytest

from luthier.status import format_time
from servingworld import Killed, World

STEPS = [{"setWeight": 10}, {"pause": {"durationSeconds": 4}}, {"setWeight": 50}, {"pause": {}}]
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def rolling(replicas: int = 1, **rollout) -> World:
    """Return a world whose second revision has half of the traffic."""
    world = World(rate=20)
    base = {"steps": STEPS, "analysis": ANALYSIS, "abortScaleDownDelaySeconds": 60}
    world.spec(replicas=replicas, rollout={**base, **rollout})
    world.settle()
    world.run(20)
    world.successor()
    assert world.run(200, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    assert world.weights() == {"r1": 50, "r2": 50}
    return world


def lose(
    world: World, revision: str, *, reason: str = "PreemptionByScheduler", at=None, node_lost: bool = False
) -> str:
    """Let the platform take a pod away; it is still there, ending."""
    name, pod = next((n, p) for n, p in world.pods.items() if f"-{revision}-" in n)
    at = at or world.now
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    if node_lost:
        pod["metadata"]["deletionTimestamp"] = format_time(at - timedelta(seconds=90))
    elif reason == "Evicted":
        pod["status"] |= {"phase": "Failed", "reason": "Evicted", "startTime": format_time(at)}
    else:
        pod["metadata"]["deletionTimestamp"] = format_time(at)
        target = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "spot"}
        pod["status"]["conditions"].append({**target, "lastTransitionTime": format_time(at)})
    return name


def replace(world: World, name: str, *, ready: bool = True) -> None:
    """Let the Deployment make another pod for one that has gone."""
    del world.pods[name]
    world.pods_become = "ready" if ready else "pending"
    revision = "r2" if "-r2-" in name else "r1"
    world.log.append("a pod is replaced")
    world.add_pod(world.child("Deployment", revision), 9)
    world.pods_become = "ready"


def interrupt_and_resume(world: World, weight: int) -> None:
    world.run(4)
    name = lose(world, "r2")
    world.tick()
    assert world.weights() == {"r1": 100}
    world.now += timedelta(seconds=2)
    replace(world, name)
    assert world.run(20, until=lambda: world.weights().get("r2") == weight), world.message("Ready")


@pytest.mark.parametrize("how", [{}, {"reason": "EvictionByEvictionAPI"}, {"reason": "Evicted"}, {"node_lost": True}])
def test_a_candidate_that_loses_a_pod_to_the_platform_has_no_traffic_at_once_and_resumes_a_step_earlier(how):
    world = rolling(replicas=2)
    world.log.clear()
    world.prometheus_hangs = True
    name = lose(world, "r2", **how)
    world.tick()
    assert world.weights() == {"r1": 100}
    assert world.log.index("traffic") < world.log.index("status")
    world.prometheus_hangs = False
    assert world.condition("Ready") == "False/Interrupted"
    assert world.condition("Serving") == "True/Serving"
    assert world.status["verdict"] == "Interrupted(r2)"
    assert "resumes at step 1, 10 %" in world.message("Ready")
    entry = world.status["history"][0]
    assert (entry["outcome"], entry["weight"], entry["revision"][:2]) == ("Interrupted", 50, "r2")
    assert [e.type for e in world.events if e.reason == "Interrupted"] == ["Warning"]
    world.run(10)
    assert world.weights() == {"r1": 100}
    assert [e.reason for e in world.events].count("Interrupted") == 1
    replace(world, name)
    assert world.run(10, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    assert world.run(60, until=lambda: world.weights() == {"r1": 50, "r2": 50})
    assert world.status["rollout"]["interruption"]["count"] == 1


def test_a_loss_that_leaves_enough_pods_is_none():
    world = rolling(replicas=3)
    deployment = world.child("Deployment", "r2")
    world.add_pod(deployment, 7)
    lose(world, "r2")
    world.tick()
    assert world.weights()["r2"] == 50


def test_pods_that_merely_are_not_ready_are_no_interruption():
    world = rolling()
    world.set_ready("r2", False)
    world.tick()
    assert world.condition("Ready") == "False/NoReadyPods"
    assert world.status["history"][0]["outcome"] == "Promoted"


def test_a_pod_that_was_evicted_long_ago_explains_nothing():
    world = rolling()
    name = lose(world, "r2", reason="Evicted", at=world.now - timedelta(seconds=300))
    world.tick()
    assert world.condition("Ready") == "False/NoReadyPods", name


def test_a_crash_loop_is_the_revisions_own_fault_also_while_it_is_interrupted():
    world = rolling()
    name = lose(world, "r2")
    world.tick()
    replace(world, name, ready=False)
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    world.set_ready("r2", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended)
    world.settle()
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.status["history"][0]["reason"] == "CandidateCrashLooping"
    assert "rejected" in world.status


def test_waiting_for_lost_pods_is_no_reason_to_reject():
    world = rolling()
    world.spec(progressDeadlineSeconds=30)
    name = lose(world, "r2")
    world.tick()
    replace(world, name, ready=False)
    world.run(120)
    assert world.condition("Ready") == "False/Interrupted"
    assert "rejected" not in world.status


def test_after_two_interruptions_the_third_is_held_until_the_step_is_approved():
    world = rolling()
    for _ in range(2):
        interrupt_and_resume(world, 10)
    world.run(4)
    name = lose(world, "r2")
    world.tick()
    assert world.condition("Ready") == "False/RolloutHeld"
    assert "the third time" in world.message("Ready")
    replace(world, name)
    world.run(30)
    assert world.weights() == {"r1": 100}
    revision = world.status["candidate"]["name"]
    assert f"{{revision: {revision}, step: 1}}" in world.message("Ready")
    world.spec(rollout={"approve": {"revision": revision, "step": 1}})
    assert world.run(10, until=lambda: world.weights() == {"r1": 90, "r2": 10})
    assert [h["outcome"] for h in world.status["history"]].count("Interrupted") == 3


@pytest.mark.parametrize("seconds", [-40, 0, 40])
def test_when_the_stable_loses_pods_in_the_same_minute_it_is_held(seconds):
    world = rolling(replicas=2)
    if seconds <= 0:
        lose(world, "r1", at=world.now + timedelta(seconds=seconds))
    name = lose(world, "r2")
    world.tick()
    world.run(max(0, seconds))
    if seconds > 0:
        assert world.condition("Ready") == "False/Interrupted"
        lose(world, "r1")
        world.tick()
    assert world.condition("Ready") == "False/RolloutHeld"
    assert "the stable lost pods in the same minute" in world.message("Ready")
    replace(world, name)
    world.run(200)
    assert world.condition("Ready") == "False/RolloutHeld"
    assert world.weights() == {"r1": 100}


def test_nothing_is_moved_onto_a_stable_that_has_no_pods():
    world = rolling(replicas=2)
    world.set_ready("r1", False)
    lose(world, "r2")
    world.tick()
    assert world.weights() == {"r1": 50, "r2": 50}
    world.set_ready("r1", True)
    world.settle()
    assert world.weights() == {"r1": 100}


def test_an_interruption_in_the_watch_goes_back_to_the_last_step_and_the_watch_begins_anew():
    steps = [{"setWeight": 50}, {"pause": {"durationSeconds": 4}}]
    world = World(rate=20)
    base = {"steps": steps, "analysis": ANALYSIS, "watchAfterPromotionSeconds": 100}
    world.spec(rollout=base)
    world.settle()
    world.run(20)
    world.successor()
    assert world.run(200, until=lambda: world.condition("Reconciling") == "True/Watching")
    ends_at = world.status["rollout"]["watch"]["endsAt"]
    world.run(20)
    name = lose(world, "r2")
    world.tick()
    assert world.weights() == {"r1": 100}
    replace(world, name)
    assert world.run(10, until=lambda: world.weights().get("r2") == 50)
    assert world.run(60, until=lambda: world.condition("Reconciling") == "True/Watching")
    assert world.status["rollout"]["watch"]["endsAt"] > ends_at


def test_an_abort_ends_an_interruption():
    world = rolling()
    lose(world, "r2")
    world.tick()
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.settle()
    assert world.condition("Stalled") == "True/Aborted"


def test_an_interruption_whose_status_write_was_lost_is_begun_again():
    world = rolling()
    lose(world, "r2")
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.tick()
    assert world.weights() == {"r1": 100}
    world.fail_at = None
    world.tick()
    assert world.condition("Ready") == "False/Interrupted"
    assert world.status["rollout"]["interruption"]["count"] == 1


def test_a_revision_that_was_interrupted_and_promoted_stays_for_a_way_back_like_any_other():
    world = rolling()
    interrupt_and_resume(world, 10)
    assert world.run(100, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    world.spec(rollout={"approve": {"revision": world.status["candidate"]["name"], "step": 4}})
    assert world.run(60, until=lambda: world.status["stable"]["name"].startswith("r2-"))
    world.run(100)
    world.successor("sha256:" + "d" * 64, "tickets-3")
    world.spec(rollout={"steps": [{"setWeight": 50}]})
    assert world.run(200, until=lambda: world.status["stable"]["name"].startswith("r3-"))
    world.run(10)
    assert world.replicas("r2") == 1


def test_in_place_an_interruption_gives_the_stable_its_pods_back_and_resumes():
    world = rolling(replicas=4, capacity="InPlace")
    world.run(10)
    assert (world.replicas("r1"), world.replicas("r2")) == (2, 2)
    name = lose(world, "r2")
    assert world.run(30, until=lambda: world.weights() == {"r1": 100}), world.message("Ready")
    if name in world.pods:
        replace(world, name)
    assert world.run(60, until=lambda: world.weights().get("r2") == 10), world.message("Ready")


# What ends a wait that nobody else would


def lose_both(world: World) -> str:
    """Let the stable lose every pod and the candidate one, in the same minute."""
    world.set_ready("r1", False)
    lose(world, "r1")
    name = lose(world, "r2")
    world.tick()
    return name


def skip_analysis(world: World) -> None:
    act = {"revision": world.status["candidate"]["name"], "skipAnalysis": True, "by": "alice", "reason": "r1 is gone"}
    world.spec(rollout={"promote": act})


def is_promoted(world: World) -> bool:
    return world.status["stable"]["name"].startswith("r2-")


def test_a_promotion_without_analysis_gets_a_rollout_out_whose_both_sides_lost_pods():
    world = rolling(replicas=4)
    name = lose_both(world)
    replace(world, name)
    world.run(60)
    assert world.condition("Ready") == "False/RolloutHeld"
    assert world.weights() == {"r1": 50, "r2": 50}
    assert "keeps 50 %, the stable has no ready pod" in world.message("Ready")
    assert "step: 1} to go on at step 3, 50 %" in world.message("Ready")
    skip_analysis(world)
    seen = []
    assert world.run(60, until=lambda: seen.append(world.weights()["r2"]) or is_promoted(world)), seen
    assert set(seen) <= {50, 100}  # nothing went back to a stable without pods
    assert world.weights() == {"r2": 100}


def test_a_promotion_without_analysis_waits_for_lost_pods_anew_and_is_interrupted_by_none():
    world = rolling(replicas=4)
    world.spec(progressDeadlineSeconds=30)
    name = lose_both(world)
    world.run(60)
    skip_analysis(world)
    world.run(20)
    assert "rejected" not in world.status
    assert "1 of 2 pods of r2" in world.message("Ready")
    replace(world, name)
    assert world.run(60, until=lambda: is_promoted(world)), world.message("Ready")


def test_a_candidate_whom_a_person_decided_for_keeps_its_traffic_when_it_loses_a_pod():
    world = rolling(replicas=4)
    skip_analysis(world)
    world.spec(suspend=True)  # so that it does not arrive at once
    lose(world, "r2")
    world.run(10)
    assert world.weights() == {"r1": 50, "r2": 50}
    assert "interruption" not in world.status["rollout"]


def test_an_interruption_ends_where_it_was_when_the_stable_cannot_take_the_traffic():
    world = rolling(replicas=4)
    world.set_ready("r1", False)
    name = lose(world, "r2")
    world.tick()
    assert world.condition("Ready") == "False/Interrupted"
    replace(world, name)
    world.run(10)
    assert (world.condition("Ready"), world.weights()) == ("False/WaitingForApproval", {"r1": 50, "r2": 50})
    assert world.status["rollout"]["step"] == 4
    world.set_ready("r1", True)
    world.spec(rollout={"approve": {"revision": world.status["candidate"]["name"], "step": 4}})
    assert world.run(60, until=lambda: is_promoted(world)), world.message("Ready")


def test_an_interruption_in_the_watch_begins_the_watch_anew_when_the_stable_has_no_pods():
    world = rolling(replicas=4, steps=[{"setWeight": 50}, {"pause": {}}], watchAfterPromotionSeconds=100)
    world.spec(rollout={"approve": {"revision": world.status["candidate"]["name"], "step": 2}})
    assert world.run(100, until=lambda: world.condition("Reconciling") == "True/Watching")
    world.set_ready("r1", False)
    world.settle()
    assert world.weights()["r2"] == 100
    name = lose(world, "r2")
    world.tick()
    assert world.condition("Ready") == "False/Interrupted"
    replace(world, name)
    watch = world.status["rollout"]["watch"]
    seen = []
    world.run(20, until=lambda: seen.append(world.weights()["r2"]))
    assert (min(seen) >= 100 - watch["weight"], seen[-1]) == (True, 100), seen
    assert world.condition("Reconciling") == "True/Watching"
    assert world.status["rollout"]["step"] == 3


def test_in_place_a_pin_goes_on_when_both_sides_lost_a_pod():
    world = rolling(replicas=4, capacity="InPlace", steps=[{"setWeight": 50}, {"pause": {}}])
    name = world.status["candidate"]["name"]
    world.spec(rollout={"promote": {"revision": name, "skipAnalysis": True, "by": "alice", "reason": "known"}})
    assert world.run(60, until=lambda: is_promoted(world))
    world.run(80)
    first = next(e["revision"] for e in world.status["history"] if e["revision"].startswith("r1-"))
    world.spec(rollout={"promote": None, "pin": {"revision": first, "by": "alice", "reason": "r2 is rude"}})
    assert world.run(60, until=lambda: 0 < world.weights().get("r1", 0) < 100)
    lost = [lose(world, "r2"), lose(world, "r1")]
    world.run(10)
    assert "interruption" not in world.status["rollout"], world.message("Ready")
    for gone in lost:
        if gone in world.pods:
            replace(world, gone)
    assert world.run(60, until=lambda: world.weights() == {"r1": 100}), world.message("Ready")


def test_a_held_interruption_is_approved_by_annotation_too():
    world = rolling(replicas=2)
    lose(world, "r1")
    name = lose(world, "r2")
    world.tick()
    replace(world, name)
    world.run(10)
    assert world.condition("Ready") == "False/RolloutHeld"
    revision = world.status["candidate"]["name"]
    world.obj["metadata"].setdefault("annotations", {})["luthier.dev/approve"] = f"{revision}/1"
    world.run(10)
    assert world.condition("Ready") != "False/RolloutHeld", world.message("Ready")
    assert world.status["rollout"]["interruption"].get("at") is None
