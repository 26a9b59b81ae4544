"""The watch after the last step: how it begins, what takes the candidate back in it, and what ends it."""

from __future__ import annotations

import random

import pytest

from factories import make_modeldeployment
from luthier.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from luthier.deployment.gates import upper_bound
from luthier.deployment.rollout import has_drifted, watch_of
from servingworld import Behaviour, Killed, World

STEPS = [{"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}
SECONDS = 300


def watched(**rollout) -> World:
    """Return a world whose second revision has passed its steps and is watched."""
    world = World(rate=20, seed=rollout.pop("seed", 0))
    errors = rollout.pop("errors", 0.0)
    world.behaviour = {"r1": Behaviour(errors=errors), "r2": Behaviour(errors=errors)}
    base = {"steps": STEPS, "analysis": ANALYSIS, "watchAfterPromotionSeconds": SECONDS}
    world.spec(rollout={**base, "abortScaleDownDelaySeconds": 60, **rollout})
    world.settle()
    world.run(60)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Reconciling") == "True/Watching")
    return world


def entry(world: World) -> dict:
    return world.status["history"][0]


def test_after_the_last_step_the_stable_keeps_its_pods_and_a_share_until_the_watch_is_over():
    world = watched()
    began = world.now
    assert world.weights() == {"r1": 5, "r2": 95}
    assert world.condition("Ready") == "False/Watching"
    assert world.condition("Serving") == "True/Serving"
    assert world.status["stable"]["name"].startswith("r1-")
    ends_at = world.status["rollout"]["watch"]["endsAt"]
    assert f"watched until {ends_at}" in world.message("Ready")
    assert world.status["verdict"] == f"Watching(r2 until {ends_at[11:]})"
    assert [e.type for e in world.events if e.reason == "Watching"] == ["Normal"]
    world.run(SECONDS - 10)
    assert world.weights() == {"r1": 5, "r2": 95}
    assert world.replicas("r1") == 1
    assert [e.reason for e in world.events].count("Watching") == 1
    assert world.run(20, until=lambda: "candidate" not in world.status)
    assert (world.now - began).total_seconds() >= SECONDS - 4
    assert world.weights() == {"r2": 100}
    assert world.condition("Ready") == "True/Promoted"
    assert entry(world)["message"].endswith("watched to the end")
    assert entry(world)["weight"] == 100


def test_the_roles_are_swapped_only_after_the_gateway_has_all_of_the_traffic():
    world = watched()
    world.gateway_accepts = False
    world.run(SECONDS + 20)
    assert world.weights() == {"r1": 0, "r2": 100}
    assert world.status["stable"]["name"].startswith("r1-")
    world.log.clear()
    generation = world.child("HTTPRoute")["metadata"]["generation"]
    for parent in world.child("HTTPRoute")["status"]["parents"]:
        parent["conditions"][0]["observedGeneration"] = generation
    world.tick()
    assert world.status["stable"]["name"].startswith("r2-")
    assert world.log[0] == "status"


def test_without_a_watch_the_last_step_promotes_at_once():
    world = World(rate=20)
    world.spec(rollout={"steps": STEPS, "analysis": ANALYSIS, "watchAfterPromotionSeconds": 0})
    world.settle()
    world.run(20)
    world.successor()
    assert world.run(200, until=lambda: world.status["stable"]["name"].startswith("r2-"))
    assert "Watching" not in {e.reason for e in world.events}


def test_the_first_revision_has_nobody_to_go_back_to_and_is_not_watched():
    world = World()
    world.spec(rollout={"watchAfterPromotionSeconds": SECONDS})
    world.settle()
    assert world.condition("Ready") == "True/Initial"


def test_a_candidate_that_gets_worse_in_the_watch_is_taken_back_route_first():
    world = watched()
    world.behaviour["r2"] = Behaviour(errors=0.3)
    world.log.clear()
    assert world.run(200, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}
    assert entry(world)["outcome"] == "RolledBack"
    assert entry(world)["reason"] == "AnalysisFailed"
    assert "at the watch after the last step, 95 %" in entry(world)["message"]
    last_route = len(world.log) - 1 - world.log[::-1].index("traffic")
    assert "status" in world.log[last_route:]
    assert world.replicas("r1") == 1
    assert world.condition("Stalled") == "True/RolledBack"


def test_a_crash_loop_in_the_watch_takes_the_candidate_back_without_prometheus():
    world = watched()
    world.prometheus_error = "down"
    world.set_ready("r2", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}})
    world.tick()
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "CandidateCrashLooping"


def test_a_candidate_without_pods_in_the_watch_gives_all_traffic_to_the_stable_and_gets_it_back():
    world = watched()
    ends_at = world.status["rollout"]["watch"]["endsAt"]
    world.set_ready("r2", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    assert world.condition("Ready") == "False/NoReadyPods"
    world.set_ready("r2", True)
    world.settle()
    assert world.weights() == {"r1": 5, "r2": 95}
    assert world.status["rollout"]["watch"]["endsAt"] == ends_at


def test_a_stable_without_pods_in_the_watch_gives_its_share_away_and_the_watch_ends_all_the_same():
    world = watched()
    world.set_ready("r1", False)
    world.settle()
    assert world.weights() == {"r1": 0, "r2": 100}
    assert world.condition("Serving") == "True/Serving"
    assert world.run(SECONDS + 20, until=lambda: "candidate" not in world.status)
    assert entry(world)["outcome"] == "Promoted"


def test_what_the_candidate_got_while_the_stable_had_no_pods_is_no_wrong_split():
    world = watched()
    world.set_ready("r1", False)
    world.run(60)
    assert world.weights() == {"r1": 0, "r2": 100}
    world.set_ready("r1", True)
    assert world.run(SECONDS + 60, until=lambda: "candidate" not in world.status)
    assert "SplitMismatch" not in {event.reason for event in world.events}


def test_an_abort_in_the_watch_takes_the_candidate_back():
    world = watched()
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.tick()
    assert world.weights() == {"r1": 100}
    assert entry(world)["outcome"] == "Aborted"


def test_the_old_spec_again_in_the_watch_takes_the_candidate_back():
    world = World(rate=20)
    world.spec(rollout={"steps": STEPS, "analysis": ANALYSIS, "watchAfterPromotionSeconds": SECONDS})
    world.settle()
    world.run(20)
    job, evaluation, spec = world.job, world.evaluation, world.obj["spec"]
    world.successor()
    assert world.run(300, until=lambda: world.condition("Reconciling") == "True/Watching")
    world.job, world.evaluation, world.obj["spec"] = job, evaluation, spec
    world.settle()
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "Reverted"


def test_a_new_spec_in_the_watch_ends_the_watch_and_starts_from_the_watched_revision():
    world = watched()
    world.successor("sha256:" + "d" * 64, "tickets-3")
    assert world.run(20, until=lambda: world.status.get("candidate", {}).get("name", "").startswith("r3-"))
    assert world.status["stable"]["name"].startswith("r2-")
    assert (entry(world)["revision"][:2], entry(world)["outcome"]) == ("r2", "Promoted")
    assert "watched to the end" not in entry(world)["message"]
    assert world.run(20, until=lambda: world.weights() == {"r2": 50, "r3": 50})


def test_a_new_spec_does_not_promote_a_watched_revision_that_has_no_pods():
    world = watched()
    world.set_ready("r2", False)
    world.tick()
    world.successor("sha256:" + "d" * 64, "tickets-3")
    world.settle()
    assert world.status["stable"]["name"].startswith("r1-")
    assert entry(world)["outcome"] == "Superseded"


@pytest.mark.parametrize("share", [5, 0])
@pytest.mark.parametrize("new_spec", [False, True])
def test_nobody_is_promoted_while_prometheus_is_down(share, new_spec):
    world = watched(watchWeight=share)
    world.prometheus_error = "down"
    world.run(10)
    assert world.condition("Ready") == "False/MetricsUnavailable"
    if new_spec:
        world.successor("sha256:" + "d" * 64, "tickets-3")
    world.run(SECONDS + 10)
    assert world.status["stable"]["name"].startswith("r1-")
    assert world.weights()["r2"] == 100 - share
    world.prometheus_error = None
    assert world.run(20, until=lambda: world.status["stable"]["name"].startswith("r2-"))


def test_a_plan_that_ends_at_100_percent_keeps_it_in_the_watch():
    world = watched(steps=[*STEPS, {"setWeight": 100}])
    assert world.weights() == {"r1": 0, "r2": 100}
    assert "only crashes, and errors above" in world.message("Ready")


def test_latency_is_not_compared_in_the_watch():
    metrics = [{"name": "ErrorRate"}, {"name": "Latency"}]
    world = World(rate=20, with_edges=True)
    analysis = {**ANALYSIS, "metrics": metrics}
    world.spec(rollout={"steps": STEPS, "analysis": analysis, "watchAfterPromotionSeconds": SECONDS})
    world.settle()
    world.run(60)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Reconciling") == "True/Watching")
    world.behaviour["r2"] = Behaviour(seconds=3)  # 19 times the load of the other side
    world.run(150)
    assert world.condition("Reconciling") == "True/Watching"
    assert [m["name"] for m in world.status["rollout"]["analysis"]["metrics"]] == ["ErrorRate"]


# Without a share for the stable


def test_without_a_share_the_bound_is_frozen_and_status_says_what_is_judged():
    world = watched(watchWeight=0, errors=0.02)
    assert world.weights() == {"r1": 0, "r2": 100}
    bound = world.status["rollout"]["watch"]["errorBoundPercent"]
    assert 2 < float(bound) < 8
    assert f"only crashes, and errors above {bound} %, are judged" in world.message("Ready")
    world.run(120)
    assert world.status["rollout"]["watch"]["errorBoundPercent"] == bound
    assert [m["name"] for m in world.status["rollout"]["analysis"]["metrics"]] == ["ErrorBound"]
    assert world.run(SECONDS, until=lambda: "candidate" not in world.status)
    assert entry(world)["outcome"] == "Promoted"


def test_without_a_share_errors_above_the_bound_take_the_candidate_back():
    world = watched(watchWeight=0)
    world.run(30)
    world.behaviour["r2"] = Behaviour(errors=0.2)
    began = world.now
    assert world.run(200, until=lambda: "candidate" not in world.status)
    assert (world.now - began).total_seconds() < 40
    assert world.weights() == {"r1": 100}
    assert entry(world)["metrics"][0]["name"] == "ErrorBound"
    assert world.status["verdict"].startswith("RolledBack(r2: errors ")


def test_without_a_share_and_without_ErrorRate_only_crashes_are_judged():
    world = watched(watchWeight=0, analysis={**ANALYSIS, "metrics": [{"name": "FormatValidity"}]})
    assert world.status["rollout"]["watch"]["errorBoundPercent"] == "100"
    assert "only crashes are judged" in world.message("Ready")
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.run(60)
    assert world.condition("Reconciling") == "True/Watching"


def test_the_bound_is_above_the_true_rate_as_often_as_promised():
    rng, rate, started = random.Random(1), 0.02, 400
    below = 0
    for _ in range(1000):
        bad = sum(rng.random() < rate for _ in range(started))
        below += upper_bound(bad, started, phi=1.0, chance=0.01) < rate
    assert below <= 10
    assert upper_bound(0, 400, phi=1.0, chance=0.01) == pytest.approx(0.0114, abs=1e-3)
    assert upper_bound(0, 0, phi=1.0, chance=0.01) == 1.0
    assert upper_bound(5, 5, phi=1.0, chance=0.01) == 1.0
    assert upper_bound(8, 400, phi=2.0, chance=0.01) > upper_bound(8, 400, phi=1.0, chance=0.01)


# Robustness


def test_an_operator_killed_as_the_watch_takes_the_candidate_back_finishes_it():
    world = watched()
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.run(200)
    assert world.weights() == {"r1": 100}
    world.behaviour["r2"] = Behaviour()
    world.fail_at = None
    world.tick()
    assert entry(world)["reason"] == "AnalysisFailed"
    assert world.weights() == {"r1": 100}


def test_a_rollout_that_an_older_version_began_has_no_watch():
    world = World(rate=20)
    steps = [{"setWeight": 50}, {"pause": {}}]
    world.spec(rollout={"steps": steps, "analysis": ANALYSIS, "watchAfterPromotionSeconds": SECONDS})
    world.settle()
    world.run(10)
    world.successor()
    assert world.run(100, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    del world.obj["status"]["rollout"]["watch"]
    name = world.status["candidate"]["name"]
    world.spec(rollout={"approve": {"revision": name, "step": 2}})
    assert world.run(20, until=lambda: world.status["stable"]["name"] == name)
    assert "PlanDrift" not in {e.reason for e in world.events}


def test_another_watch_in_mid_rollout_is_a_drift_and_counts_from_the_next_one_on():
    spec = ModelDeploymentSpec.model_validate(make_modeldeployment()["spec"])
    world = watched()
    rollout = ModelDeploymentStatus.model_validate(world.status).rollout
    mine = ModelDeploymentSpec.model_validate(world.obj["spec"])
    assert not has_drifted(mine, rollout)
    other = mine.rollout.model_copy(update={"watch_after_promotion_seconds": 10})
    assert has_drifted(mine.model_copy(update={"rollout": other}), rollout)
    assert watch_of(spec) is None
