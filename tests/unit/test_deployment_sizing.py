"""Pods before weight, in both directions: with spare capacity, without it, and when a rollback finds too little."""

from __future__ import annotations

import math

import pytest

from luthier.deployment.sizing import pods_for, weight_for
from servingworld import Behaviour, Killed, World

ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def serving(replicas: int, **rollout) -> World:
    """Return a world whose first revision serves all traffic with all its pods."""
    world = World(rate=40)
    base = {"steps": [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}], "analysis": ANALYSIS}
    world.spec(replicas=replicas, rollout={**base, "abortScaleDownDelaySeconds": 60, **rollout})
    world.settle()
    world.run(20)
    return world


def paused(replicas: int, weight: int, **rollout) -> World:
    """Return a world whose second revision has a share and waits for approval."""
    world = serving(replicas, steps=[{"setWeight": weight}, {"pause": {}}], **rollout)
    world.successor()
    assert world.run(200, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    return world


def pods(world: World, revision: str) -> list[dict]:
    return [pod for name, pod in sorted(world.pods.items()) if f"-{revision}-" in name]


def ready(world: World, revision: str) -> int:
    return sum(pod["status"]["conditions"][0]["status"] == "True" for pod in pods(world, revision))


def mark(pod: dict, status: str) -> None:
    pod["status"]["conditions"] = [{"type": "Ready", "status": status}]


def entry(world: World) -> dict:
    return world.status["history"][0]


class Cluster:
    """Pods take a pass each to become ready, one after the other; every pass is checked against the promises."""

    def __init__(self, world: World, *, most: int) -> None:
        self.world, self.most = world, most
        self.before_weight = True
        self.weights: list[int] = []
        world.pods_become = "pending"

    def look(self) -> None:
        world, replicas = self.world, self.world.obj["spec"]["replicas"]
        assert len(world.pods) <= self.most, sorted(world.pods)
        weights = world.weights()
        assert sum(weights.values()) == 100
        for revision, weight in weights.items():
            # Weights are whole, pods' shares are not; and the last 20 % go back at once.
            needed = math.ceil(replicas * (80 if weights == {"r1": 100} else weight - 1) / 100)
            assert ready(world, revision) >= (max(1, needed) if weight else 0) or not self.before_weight, weights
        if weights.get("r2", 0) not in self.weights[-1:]:
            self.weights.append(weights.get("r2", 0))
        waiting = next((p for p in world.pods.values() if p["status"]["conditions"][0]["status"] == "False"), None)
        if waiting is not None:
            mark(waiting, "True")

    def reaches(self, seconds: float, until) -> bool:
        return self.world.run(seconds, until=lambda: self.look() or until())


# With spare capacity


def test_a_candidates_pods_follow_its_weight_and_the_stable_keeps_all_of_its_own():
    world = serving(4, watchAfterPromotionSeconds=40)
    seen: dict[int, int] = {}
    world.successor()

    def note() -> bool:
        seen.setdefault(world.weights().get("r2", 0), world.replicas("r2") or 0)
        assert world.replicas("r1") == 4
        return world.condition("Reconciling") == "True/Watching"

    assert world.run(600, until=note)
    assert seen[10] == 1
    assert seen[50] == 2
    assert world.replicas("r2") == 4
    assert world.run(100, until=lambda: entry(world)["revision"].startswith("r2-"))
    assert world.replicas("r2") == 4


def test_a_weight_waits_for_the_pods_that_it_needs():
    world = serving(4, steps=[{"setWeight": 25}, {"pause": {"durationSeconds": 4}}, {"setWeight": 75}, {"pause": {}}])
    world.successor()
    assert world.run(60, until=lambda: world.weights().get("r2") == 25)
    world.pods_become = "pending"
    world.run(30)
    assert world.replicas("r2") == 3
    assert world.weights()["r2"] == 25
    assert "75 %: 1 of 3 pods of r2" in world.message("Ready")
    assert "it has 25 % until then" in world.message("Ready")
    world.set_ready("r2", True)
    world.run(10)
    assert world.weights()["r2"] == 75


def test_pods_that_come_while_prometheus_is_down_get_no_more_weight():
    world = serving(4, steps=[{"setWeight": 25}, {"pause": {"durationSeconds": 4}}, {"setWeight": 75}, {"pause": {}}])
    world.successor()
    assert world.run(60, until=lambda: world.weights().get("r2") == 25)
    world.pods_become = "pending"
    world.run(20)
    world.prometheus_error = "down"
    world.set_ready("r2", True)
    world.run(10)
    assert world.weights()["r2"] == 25
    assert world.condition("Ready") == "False/MetricsUnavailable"
    world.prometheus_error = None
    world.run(10)
    assert world.weights()["r2"] == 75


# The way back


def test_a_rollback_moves_as_much_as_the_stables_ready_pods_can_take():
    world = paused(4, 95)
    for pod in pods(world, "r1")[1:]:
        mark(pod, "False")
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.log.clear()
    assert world.run(100, until=lambda: world.weights()["r2"] < 95)
    assert world.weights() == {"r1": 25, "r2": 75}
    assert world.log.index("traffic") < len(world.log) - 1 - world.log[::-1].index("status")
    assert world.condition("Ready") == "False/CapacityShort"
    assert "1 of 4 pods of r1" in world.message("Ready")
    world.prometheus_error = "down"  # the decision stands, whoever can be asked
    world.behaviour["r2"] = Behaviour()
    world.run(20)
    assert world.weights() == {"r1": 25, "r2": 75}
    mark(pods(world, "r1")[1], "True")
    world.settle()
    assert world.weights() == {"r1": 50, "r2": 50}
    for pod in pods(world, "r1"):
        mark(pod, "True")
    world.settle()
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "AnalysisFailed"
    assert entry(world)["metrics"][0]["candidateBad"] >= 3
    assert world.status["verdict"].startswith("RolledBack(r2: errors ")
    assert [e.reason for e in world.events].count("CapacityShort") == 2


def test_a_small_share_goes_back_at_once():
    world = paused(4, 20)
    mark(pods(world, "r1")[0], "False")
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.tick()
    assert world.weights() == {"r1": 100}


def test_a_candidate_without_pods_keeps_nothing_while_one_pod_of_the_stable_is_ready():
    world = paused(4, 95)
    for pod in pods(world, "r1")[1:]:
        mark(pod, "False")
    world.set_ready("r2", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}})
    world.tick()
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "CandidateCrashLooping"


def test_a_rollback_by_parts_survives_the_operators_death():
    world = paused(4, 95)
    for pod in pods(world, "r1")[1:]:
        mark(pod, "False")
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.tick()
    assert world.weights() == {"r1": 25, "r2": 75}
    world.fail_at = None
    world.spec(rollout={"abort": None})  # too late: it has begun
    world.settle()
    assert world.weights() == {"r1": 25, "r2": 75}
    for pod in pods(world, "r1"):
        mark(pod, "True")
    world.settle()
    assert entry(world)["outcome"] == "Aborted"


# In place


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7])
def test_in_place_both_sides_have_one_pod_more_at_most_all_the_way_there_and_back(replicas):
    world = serving(replicas, capacity="InPlace", watchAfterPromotionSeconds=3600)
    cluster = Cluster(world, most=replicas + 1)
    world.successor()
    assert cluster.reaches(900, lambda: world.condition("Reconciling") == "True/Watching"), world.message("Ready")
    assert {10, 50, 95} <= set(cluster.weights)
    assert cluster.weights == sorted(cluster.weights)
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    cluster.weights.clear()
    assert cluster.reaches(600, lambda: "candidate" not in world.status), world.message("Ready")
    assert cluster.weights == sorted(cluster.weights, reverse=True)
    assert cluster.reaches(100, lambda: ready(world, "r1") == replicas)
    assert world.weights() == {"r1": 100}
    world.run(70)
    assert world.replicas("r2") == 0


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [50, 75, 100])
def test_in_place_a_large_first_weight_is_reached_pod_by_pod(replicas, first):
    world = serving(replicas, capacity="InPlace", steps=[{"setWeight": first}, {"pause": {}}])
    cluster = Cluster(world, most=replicas + 1)
    world.successor()
    assert cluster.reaches(300, lambda: world.condition("Ready") == "False/WaitingForApproval"), world.message("Ready")
    assert world.weights().get("r2") == first


@pytest.mark.parametrize("replicas", [1, 3, 4])
def test_in_place_a_promotion_ends_with_all_pods_of_the_new_revision(replicas):
    world = serving(replicas, capacity="InPlace", watchAfterPromotionSeconds=10)
    cluster = Cluster(world, most=replicas + 1)
    world.successor()
    assert cluster.reaches(900, lambda: world.status["stable"]["name"].startswith("r2-")), world.message("Ready")
    assert ready(world, "r2") == replicas
    world.successor("sha256:" + "d" * 64, "tickets-3")
    assert cluster.reaches(300, lambda: world.weights().get("r3") == 10), world.message("Ready")


def test_in_place_a_broken_candidate_loses_all_traffic_at_once_and_the_pods_follow():
    world = serving(4, capacity="InPlace", watchAfterPromotionSeconds=3600)
    cluster = Cluster(world, most=5)
    world.successor()
    assert cluster.reaches(900, lambda: world.condition("Reconciling") == "True/Watching")
    world.run(10)
    assert world.replicas("r1") == 1
    world.set_ready("r2", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}})
    world.tick()
    assert world.weights() == {"r1": 100}
    for _ in range(12):
        world.run(2)
        assert len(world.pods) <= 5
        for pod in pods(world, "r1"):
            mark(pod, "True")
    assert ready(world, "r1") == 4


def test_in_place_a_candidate_that_loses_its_pods_gets_its_traffic_back_pod_by_pod():
    world = serving(4, capacity="InPlace", watchAfterPromotionSeconds=3600)
    cluster = Cluster(world, most=5)
    world.successor()
    assert cluster.reaches(900, lambda: world.weights().get("r2") == 50)
    world.run(10)
    world.set_ready("r2", False)
    world.tick()
    assert world.weights() == {"r1": 100}
    cluster.before_weight = False
    assert cluster.reaches(200, lambda: world.weights().get("r2") == 50), world.message("Ready")


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("weight", [50, 95])
def test_in_place_a_rollout_whose_status_is_lost_begins_anew_and_no_side_gets_more_than_its_pods_take(replicas, weight):
    world = serving(replicas, capacity="InPlace", watchAfterPromotionSeconds=3600)
    cluster = Cluster(world, most=replicas + 1)
    world.successor()
    assert cluster.reaches(900, lambda: world.weights().get("r2") == weight), world.message("Ready")
    del world.obj["status"]
    cluster.weights.clear()
    assert cluster.reaches(300, lambda: world.weights().get("r2") == 10), world.message("Ready")
    assert cluster.weights == sorted(cluster.weights, reverse=True)
    assert cluster.reaches(900, lambda: world.condition("Reconciling") == "True/Watching"), world.message("Ready")
    assert world.status["stable"]["name"].startswith("r1-")


@pytest.mark.parametrize("replicas", [2, 3, 4, 7])
def test_in_place_a_status_lost_while_a_rollback_waits_for_pods_finishes_it_pod_by_pod(replicas):
    world = serving(replicas, capacity="InPlace", watchAfterPromotionSeconds=3600)
    cluster = Cluster(world, most=replicas + 1)
    world.successor()
    assert cluster.reaches(900, lambda: world.condition("Reconciling") == "True/Watching")
    world.behaviour["r2"] = Behaviour(errors=0.6)
    assert cluster.reaches(100, lambda: world.condition("Reconciling") == "True/CapacityShort")
    cluster.weights.clear()
    world.prometheus_error = "down"  # what proved it worse is not to be had again

    lost: list[dict] = []

    def has_gone() -> bool:
        if "r2" in world.weights() and world.weights() not in lost:  # once for each share that it has on its way
            lost.append(world.weights())
            del world.obj["status"]
        return world.weights() == {"r1": 100}

    assert cluster.reaches(600, has_gone), world.message("Ready")
    assert lost
    assert cluster.weights == sorted(cluster.weights, reverse=True)
    world.settle()
    assert (entry(world)["outcome"], entry(world)["reason"]) == ("RolledBack", "AnalysisFailed")
    assert world.condition("Stalled") == "True/RolledBack"
    cluster.weights.clear()
    world.prometheus_error = None
    assert not cluster.reaches(100, lambda: "candidate" in world.status)
    assert ready(world, "r1") == replicas


def test_a_change_of_capacity_in_mid_rollout_counts_from_the_next_one_on():
    world = paused(4, 50)
    world.spec(rollout={"capacity": "InPlace"})
    world.run(10)
    assert world.replicas("r1") == 4
    assert "PlanDrift" in {e.reason for e in world.events}


def test_shares_and_pods_agree():
    for replicas in range(1, 12):
        assert pods_for(replicas, 100) == replicas
        assert weight_for(replicas, replicas) == 100
        for weight in range(101):
            assert pods_for(replicas, weight) == max(1, math.ceil(replicas * weight / 100))
            assert pods_for(replicas, weight) + pods_for(replicas, 100 - weight) <= replicas + 1
        for some in range(replicas):
            assert pods_for(replicas, weight_for(replicas, some)) <= max(1, some)


def test_a_pod_more_than_its_deployment_asks_for_takes_no_traffic():
    """It is about to be ended: a way back that counts on it would leave its share to the others."""
    world = paused(2, 50, capacity="InPlace")
    assert (ready(world, "r1"), world.replicas("r1")) == (1, 1)
    world.add_pod(world.child("Deployment", "r1"), 9)
    assert ready(world, "r1") == 2
    world.spec(rollout={"abort": {"revision": world.status["candidate"]["name"]}})
    world.tick()
    assert world.weights() == {"r1": 50, "r2": 50}
    assert world.run(60, until=lambda: world.weights() == {"r1": 100})
