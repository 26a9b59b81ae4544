"""Objects without a status, as a backup or a hand leaves them: nothing is trained, rolled out or tried again.

The real operator on a real API server.
"""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_evaluation, make_modeldeployment
from faults.chain import (
    delete_jobs,
    delete_own,
    evaluated,
    finetuned,
    has_passed,
    is_summed_up,
    made,
    play,
)
from faults.hands import all_children, written_weights
from faults.lives import SUITE, Ending, begin_first, first_serves, judged
from faults.world import World
from jobworld import MODEL_DIGEST, PREPARE_DETAILS, step_result
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.flood]
Json = dict[str, Any]


REUSED = PREPARE_DETAILS | {"reused": {"digest": MODEL_DIGEST, "base_digest": PREPARE_DETAILS["base_digest"]}}


def found_again(world: World) -> Json:
    """Return what the data Job says when the artifact of exactly these inputs is there: whose it was, and where."""
    path = world.notes["artifact"]
    return step_result(details=REUSED | {"reused": {**REUSED["reused"], "path": path}})


RESTORED = {"prepare": Ending(result=found_again), "evaluate": Ending(result=judged("Passed"))}


def chained(world: World) -> None:
    """Train, judge and serve: the whole chain, by references."""
    finetuned(world)
    gates = [{"suite": "held-out", "metric": "exact", "minPercent": 70}]
    world.place.make("evaluations", make_evaluation(suites=[SUITE], gates=gates, baselines=[]))
    passed = {"evaluate": Ending(result=judged("Passed"))}
    play(world, passed, lambda: has_passed(world), "it has passed")
    body = make_modeldeployment(namespace=world.place.name)
    world.stage.create("modeldeployments", {**body, "metadata": {"name": "support"}})
    until(lambda: first_serves(world), "the first revision serves")


def test_a_restored_cluster_starts_no_training_and_no_rollout(api, world: World):
    chained(world)
    plurals = {"finetunejobs": "tickets", "evaluations": "tickets-eval", "modeldeployments": "support"}
    backup = {plural: world.place.get(plural, name) for plural, name in plurals.items()}
    world.operator.kill()
    for plural, name in plurals.items():
        delete_own(api, world, plural, name, "Background")
    world.proxy.arm()
    for plural in reversed(plurals):  # GitOps and backups know no order
        world.place.make(plural, {**backup[plural], "status": {}})
    world.operator.start()
    play(world, RESTORED, lambda: is_summed_up(world, "True", "Reused"), "what was trained is found")
    play(world, RESTORED, lambda: first_serves(world), "the revision serves again", seconds=60)
    assert sorted(made(world)) == ["tickets-data-1", "tickets-eval-eval-1"]
    before, after = backup["modeldeployments"]["status"], world.stage.status()
    assert after["stable"]["name"] == before["stable"]["name"], "the same weights are the same revision"
    assert [(e["outcome"], e["reason"]) for e in after["history"]] == [("Promoted", "Initial")]
    assert len(made(world, "controllerrevisions")) == 1


def lose_status(api, world: World, plural: str, name: str) -> None:
    def lose() -> bool:
        obj = world.place.get(plural, name)
        reply = api.put(f"{world.place.url(plural, name)}/status", json={**obj, "status": {}})
        return reply.status_code == 200

    until(lose, "no write of the operator is under way any more", seconds=10)
    assert "conditions" not in world.place.status(plural, name)


@pytest.mark.parametrize("jobs", ["there", "gone"])
@pytest.mark.row(2)
def test_jobs_whose_status_is_lost_are_not_run_again(api, world: World, jobs: str):
    finetuned(world)
    evaluated(world)
    world.operator.kill()
    lose_status(api, world, "finetunejobs", "tickets")
    lose_status(api, world, "evaluations", "tickets-eval")
    if jobs == "gone":
        delete_jobs(world)
    world.proxy.arm()
    world.operator.start()
    reason = "Succeeded" if jobs == "there" else "Reused"
    play(world, RESTORED, lambda: is_summed_up(world, "True", reason), "the result is known again")
    play(world, RESTORED, lambda: has_passed(world), "the verdict is known again")
    # Without its Jobs an Evaluation has nothing left but to judge again; what was trained is found in storage.
    assert sorted(made(world)) == ([] if jobs == "there" else ["tickets-data-1", "tickets-eval-eval-1"])


@pytest.mark.row(2)
def test_a_settled_deployment_whose_status_is_lost_serves_on(api, world: World):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    children = {c["metadata"]["uid"]: c.get("spec") for c in all_children(world)}
    rebuilt(api, world)
    until(lambda: world.stage.condition("Serving") == "True/Serving", "it serves")
    assert world.stage.status()["stable"]["name"].startswith("r1-")
    assert {c["metadata"]["uid"]: c.get("spec") for c in all_children(world)} == children
    assert {weights.get("r1") for weights, _ in world.stage.timeline} == {100}


def rebuilt(api, world: World) -> None:
    """Take the status away while nobody acts, and wait until it is told that it is there again."""
    world.operator.kill()
    lose_status(api, world, "modeldeployments", "support")
    world.operator.start()
    until(lambda: world.stage.status().get("stable"), "the status is rebuilt")
    until(lambda: "StatusRebuilt" in {e["reason"] for e in world.stage.list("events")}, "it is told")


@pytest.mark.row(2)
def test_a_rollout_whose_status_is_lost_begins_again_as_the_same_revision(api, world: World):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    world.stage.successor()
    until(lambda: world.stage.condition("Ready") == "False/WaitingForApproval", "the pause is reached")
    name = world.stage.status()["candidate"]["name"]
    world.proxy.arm()
    rebuilt(api, world)
    until(lambda: world.stage.condition("Ready") == "False/WaitingForApproval", "it is there again")
    assert world.stage.status()["candidate"]["name"] == name
    assert world.stage.weights() == {"r1": 50, "r2": 50}
    assert len(world.stage.list("controllerrevisions")) == 2
    assert [weights.get("r2", 0) for weights in written_weights(world)] == [0, 25, 50], "it earns its weight again"


@pytest.mark.row(2)
def test_a_rejected_revision_whose_status_is_lost_stays_rejected(api, world: World):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    world.stage.errors["r2"] = 0.6
    world.stage.successor()
    until(lambda: world.stage.condition("Stalled") == "True/RolledBack", "r2 is rejected")
    world.proxy.arm()
    rebuilt(api, world)
    until(lambda: world.stage.condition("Stalled") == "True/RolledBack", "r2 is rejected still")
    assert world.stage.weights() == {"r1": 100}
    assert all("r2" not in weights for weights in written_weights(world))
