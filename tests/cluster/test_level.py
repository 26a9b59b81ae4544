"""Level, not edge: what is there decides, whatever became of it, and while whom nobody looked.

The real operator on a real API server; a person deletes and edits what is the operator's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from factories import make_evaluation, make_finetunejob, make_modeldeployment
from faults.chain import (
    NO_END,
    delete_jobs,
    delete_own,
    evaluated,
    finetuned,
    has_passed,
    is_at_work,
    is_summed_up,
    made,
    play,
    trains,
)
from faults.hands import Damage, Hands, all_children, children_of, written_weights
from faults.lives import FOLDERS, HANGS, SUITE, TRAINED, Ending, approve, begin_first, first_serves, job_status, judged
from faults.rules import Rule
from faults.settled import free_port, multiply, start_among
from faults.world import World, open_world
from jobstage import CLAIMS, Namespace
from luthier.naming import short_hash
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.flood]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def worlds(api, routes, tmp_path_factory) -> Iterator[Any]:
    """Return a function that opens a world with a running operator, for as long as the module's tests last."""
    with ExitStack() as stack:
        opened: list[World] = []

        def open_one(**settings: object) -> World:
            name = f"level-{len(opened)}-{short_hash(str(tmp_path_factory.getbasetemp()))}"
            world = stack.enter_context(open_world(api, name, tmp_path_factory.mktemp(name), **settings))
            world.operator.start()
            opened.append(world)
            return world

        yield open_one
        for world in opened:
            world.operator.kill()
            assert "Traceback" not in world.log()


def opened_serving(worlds) -> World:
    world = worlds()
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    return world


# A namespace that goes, with all that is in it: pods of Jobs keep it for a minute, so it begins here and ends below


@dataclass(frozen=True, kw_only=True)
class Leaving:
    world: World
    other: Namespace
    """Another namespace of the same operator."""


@pytest.fixture(scope="module")
def leaving(api, routes, tmp_path_factory) -> Iterator[Leaving]:
    """A namespace that was deleted with live objects of all three kinds in it."""
    folder = tmp_path_factory.mktemp("leaving")
    gone, stays = (f"{word}-{short_hash(str(folder))}" for word in ("gone", "stays"))
    with open_world(api, gone, folder, watch_namespaces=f"{gone},{stays}") as world:
        assert api.post("/api/v1/namespaces", json=namespace_named(stays)).status_code == 201
        other = Namespace(api, stays)
        other.make_claims(*CLAIMS)
        world.operator.start()
        begin_first(world)
        world.place.make("finetunejobs", make_finetunejob())
        world.place.make("evaluations", make_evaluation(target=FOLDERS, suites=[SUITE], gates=[]))
        play(world, NO_END, lambda: trains(world), "it trains")
        world.place.job("tickets-eval-eval-1")
        until(lambda: first_serves(world), "the first revision serves")
        world.stage.successor()
        until(lambda: world.stage.weights().get("r2"), "r2 has traffic")
        assert api.delete(f"/api/v1/namespaces/{gone}").status_code == 200
        yield Leaving(world=world, other=other)
        api.delete(f"/api/v1/namespaces/{stays}")


def namespace_named(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


@pytest.mark.row(42)
def test_while_a_namespace_goes_the_operator_goes_on_with_another(leaving: Leaving):
    leaving.other.make("finetunejobs", make_finetunejob())
    until(lambda: leaving.other.job_names() == {"tickets-data-1"}, "a Job in the other one")


# Children of a ModelDeployment: deleted or edited by hand


def whole(world: World) -> tuple[dict[str, str], str | None, str | None]:
    """Return all that a damage must not change for long."""
    return children_of(world), world.stage.condition("Ready"), world.stage.condition("Serving")


def undone(hands: Hands, damage: Damage) -> None:
    """Do damage, and wait until all is as before."""
    before = hands.world.notes.setdefault("whole", whole(hands.world))
    until(lambda: whole(hands.world) == before, "the damage before this one is undone")
    uids = {c["metadata"]["uid"]: c["metadata"]["resourceVersion"] for c in all_children(hands.world)}
    damage(hands)
    assert {c["metadata"]["uid"]: c["metadata"]["resourceVersion"] for c in all_children(hands.world)} != uids
    try:
        until(lambda: whole(hands.world) == before, "all is as before", seconds=30)
    except AssertionError as error:
        raise AssertionError(f"{error}\nbefore: {before}\nafter:  {whole(hands.world)}") from None


IMAGE = {"template": {"spec": {"containers": [{"name": "server", "image": "hijacked:1"}]}}}
OF_ONE = {
    "Deployment deleted": lambda hands, number: hands.delete_child("deployments", number),
    "Deployment scaled to none": lambda hands, number: hands.edit_child("deployments", number, {"replicas": 0}),
    "Deployment scaled up": lambda hands, number: hands.edit_child("deployments", number, {"replicas": 3}),
    "Deployment's pods exchanged": lambda hands, number: hands.edit_child("deployments", number, IMAGE),
    "Service deleted": lambda hands, number: hands.delete_child("services", number),
    "Service selects others": lambda hands, number: hands.edit_child("services", number, {"selector": {"app": "x"}}),
}
SETTLED: dict[str, Damage] = {
    **{what: lambda hands, do=do: do(hands, "r1") for what, do in OF_ONE.items()},
    "weights edited": lambda hands: hands.reweigh({"r1": 1}),
    "weights and notes edited": lambda hands: hands.reweigh({"r1": 30}, forget=True),
    "Gateway exchanged": lambda hands: hands.edit(
        "httproutes", hands.route()["metadata"]["name"], {"spec": {"parentRefs": [{"name": "another"}]}}
    ),
    "HTTPRoute deleted": Hands.delete_route,
}
ROLLING: dict[str, Damage] = {
    **{
        f"{what} of {number}": lambda hands, do=do, number=number: do(hands, number)
        for number in ("r1", "r2")
        for what, do in OF_ONE.items()
    },
    "more weight for the candidate": lambda hands: hands.reweigh({"r1": 5, "r2": 95}),
    "all weight for the stable": lambda hands: hands.reweigh({"r1": 100}),
    "all weight for the candidate": lambda hands: hands.reweigh({"r2": 100}),
    "HTTPRoute deleted": Hands.delete_route,
}


@pytest.fixture(scope="module")
def settled(api, worlds) -> Hands:
    """One revision that serves."""
    return Hands(api, opened_serving(worlds))


@pytest.mark.parametrize("damage", SETTLED)
@pytest.mark.row(26, 27)
def test_while_settled_a_child_comes_back(settled: Hands, damage: str):
    undone(settled, SETTLED[damage])


RECORD = "controllerrevisions"
LOST: dict[str, Damage] = {
    "alone": lambda hands: hands.delete_child(RECORD, "r1"),
    "and the Deployment": lambda hands: (hands.delete_child(RECORD, "r1"), hands.delete_child("deployments", "r1")),
    "and the Service": lambda hands: (hands.delete_child(RECORD, "r1"), hands.delete_child("services", "r1")),
}


@pytest.mark.row(26)
@pytest.mark.parametrize("damage", LOST)
def test_while_settled_a_record_that_is_deleted_is_made_again_as_it_was(settled: Hands, damage: str):
    before = settled.world.notes.setdefault("record", settled.child(RECORD, "r1"))
    undone(settled, LOST[damage])
    after = settled.child(RECORD, "r1")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert (after["data"], after["revision"]) == (before["data"], before["revision"])


@pytest.mark.row(26)
def test_a_record_deleted_with_all_that_has_a_copy_of_it_while_nobody_looked_is_told(api, world: World):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    world.operator.kill()
    hands = Hands(api, world)
    for plural in (RECORD, "deployments", "services"):
        hands.delete_child(plural, "r1")
    world.operator.start()
    until(lambda: world.stage.condition("Stalled") == "True/RevisionLost", "it is told")


@pytest.fixture(scope="module")
def rolling(api, worlds) -> Hands:
    """A rollout that waits for approval at 50 %."""
    world = opened_serving(worlds)
    world.stage.successor()
    until(lambda: world.stage.condition("Ready") == "False/WaitingForApproval", "the pause is reached")
    assert world.stage.weights() == {"r1": 50, "r2": 50}
    return Hands(api, world)


@pytest.mark.parametrize("damage", ROLLING)
@pytest.mark.row(26, 27)
def test_in_mid_rollout_a_child_comes_back_and_nothing_goes_on(rolling: Hands, damage: str):
    undone(rolling, ROLLING[damage])


def test_a_damaged_rollout_is_still_one_that_can_be_approved(rolling: Hands):
    undone(rolling, ROLLING["HTTPRoute deleted"])
    approve(rolling.world)
    until(lambda: rolling.world.stage.condition("Ready") == "True/Promoted", "r2 is promoted")
    until(lambda: rolling.world.stage.weights() == {"r2": 100}, "all traffic is on r2")


# In mid-rollback: the route says that the candidate is taken back, status does not yet


class Halted:
    """A world whose operator dies between the two writes of a rollback: one after another, each of a new candidate."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.world = hands.world
        self.number = 1

    def halt(self) -> str:
        """Let a new candidate breach, and the operator die when it has taken the traffic away; return its number."""
        world = self.world
        world.stage.down = False
        if not world.operator.is_alive():
            world.operator.start()
        self.number += 1
        candidate = f"r{self.number}"
        world.stage.change(rollout={"analysis": {"minSamples": 100_000}})
        world.stage.successor(self.number)
        until(lambda: world.stage.weights().get(candidate) == 25, f"{candidate} has traffic")
        world.proxy.arm(Rule(act="kill-after", method="PUT", path=".*/httproutes/.*"))
        world.stage.errors[candidate] = 0.6
        until(lambda: not world.operator.is_alive(), "the operator died in the middle")
        assert world.stage.weights() == {"r1": 100}
        assert world.stage.status()["candidate"]["name"].startswith(f"{candidate}-")
        return candidate


@pytest.fixture(scope="module")
def halted(api, worlds) -> Halted:
    return Halted(Hands(api, opened_serving(worlds)))


IN_ROLLBACK: dict[str, Any] = {
    "nothing": lambda hands, candidate: None,
    "weights edited": lambda hands, candidate: hands.reweigh({"r1": 50, candidate: 50}),
    "Prometheus is gone": lambda hands, _: setattr(hands.world.stage, "down", True),
    "weights edited, Prometheus is gone": lambda hands, candidate: (
        setattr(hands.world.stage, "down", True),
        hands.reweigh({"r1": 50, candidate: 50}),
    ),
    "weights and notes edited": lambda hands, candidate: hands.reweigh({"r1": 50, candidate: 50}, forget=True),
    "HTTPRoute deleted": lambda hands, candidate: hands.delete_route(),
    "HTTPRoute deleted, Prometheus is gone for a while": lambda hands, _: without_numbers(hands),
    "candidate's Deployment deleted": lambda hands, candidate: hands.delete_child("deployments", candidate),
    "stable's Deployment deleted": lambda hands, candidate: hands.delete_child("deployments", "r1"),
    "candidate's Service deleted": lambda hands, candidate: hands.delete_child("services", candidate),
}


@pytest.mark.parametrize("damage", IN_ROLLBACK)
@pytest.mark.row(26, 27, 55)
def test_in_mid_rollback_whatever_is_done_the_candidate_stays_away(halted: Halted, damage: str):
    world, candidate = halted.world, halted.halt()
    written = len(world.proxy.writes)
    IN_ROLLBACK[damage](halted.hands, candidate)
    until(lambda: accepted(halted.hands), "the gateway has taken what was done")
    world.operator.start()
    until(lambda: world.stage.condition("Stalled") == "True/RolledBack", "status says so")
    until(lambda: world.stage.condition("Serving") == "True/Serving", "the stable serves")
    assert world.stage.weights() == {"r1": 100}
    entry = world.stage.status()["history"][0]
    assert (entry["revision"].partition("-")[0], entry["reason"]) == (candidate, "AnalysisFailed")
    assert all(candidate not in weights for weights in written_weights(world, since=written))


def without_numbers(hands: Hands) -> None:
    """Delete the route, with all that it says, and let the operator look at that without Prometheus first."""
    world = hands.world
    world.stage.down = True
    hands.delete_route()
    world.operator.start()
    until(lambda: world.stage.condition("Reconciling") == "True/MetricsUnavailable", "it waits for numbers")
    assert world.stage.weights() == {"r1": 100}
    world.operator.kill()
    world.stage.down = False


def accepted(hands: Hands) -> bool:
    """Say whether the stage has seen the route as it is, or that there is none."""
    return all(
        [c["observedGeneration"] for parent in r.get("status", {}).get("parents", []) for c in parent["conditions"]]
        == [r["metadata"]["generation"]]
        for r in hands.world.stage.list("httproutes")
    )


# Jobs: deleted and edited by hand


@pytest.mark.row(26)
def test_a_finished_job_that_is_deleted_by_hand_is_never_run_again(world: World):
    finetuned(world)
    evaluated(world)
    before = {plural: world.place.list(plural)[0] for plural in ("finetunejobs", "evaluations")}
    delete_jobs(world)
    is_at_work(world)
    world.operator.kill()
    world.operator.start()
    is_at_work(world, "another")
    assert world.place.job_names() == {"other-data-1", "another-data-1"}
    for plural, obj in before.items():
        now = world.place.get(plural, obj["metadata"]["name"])
        assert now["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]


@pytest.mark.row(26)
def test_a_finished_data_job_that_is_deleted_while_training_is_not_run_again(world: World):
    world.place.make("finetunejobs", make_finetunejob())
    play(world, NO_END, lambda: trains(world), "it trains")
    delete_jobs(world, "tickets-data-")
    is_at_work(world)
    play(world, {"train": TRAINED}, lambda: is_summed_up(world, "True", "Succeeded"), "it is trained")
    assert [name for name in made(world) if name.startswith("tickets")] == ["tickets-data-1", "tickets-train-1"]


@pytest.mark.row(26)
def test_running_jobs_that_are_deleted_by_hand_are_told_and_run_again(world: World):
    world.place.make("finetunejobs", make_finetunejob())
    world.place.job("tickets-data-1")
    delete_jobs(world, "tickets-data-")
    until(lambda: made(world).count("tickets-data-1") == 2, "the data Job is there again")
    play(world, NO_END, lambda: trains(world), "it trains")
    delete_jobs(world, "tickets-train-")
    until(lambda: is_summed_up(world, "Unknown", "Retrying"), "it is told")
    [first] = job_status(world)["attempts"]
    assert first["outcome"] == "Infrastructure"
    assert "deleted" in first["message"]
    script = {"train-2": Ending(runs=True), "report": HANGS}
    play(world, script, lambda: "tickets-report-train-2" in world.place.job_names(), "the result is read again")
    delete_jobs(world, "tickets-report-")
    until(lambda: made(world).count("tickets-report-train-2") == 2, "the report Job is there again")
    play(world, {"report": TRAINED}, lambda: is_summed_up(world, "True", "Succeeded"), "it is trained")
    assert [a["outcome"] for a in job_status(world)["attempts"]] == ["Infrastructure", "Succeeded"]


@pytest.mark.row(26)
def test_a_running_evaluation_job_that_is_deleted_by_hand_is_followed_by_another(world: World):
    world.place.make("evaluations", make_evaluation(target=FOLDERS, suites=[SUITE], gates=[]))
    world.place.job("tickets-eval-eval-1")
    delete_jobs(world)
    world.place.job("tickets-eval-eval-2")
    play(world, {"evaluate": Ending(result=judged("Passed"))}, lambda: has_passed(world), "it has passed")


@pytest.mark.row(27)
def test_a_job_that_somebody_suspends_waits_and_is_told_and_goes_on(world: World):
    world.place.make("finetunejobs", make_finetunejob())
    play(world, NO_END, lambda: trains(world), "it trains")
    name = world.place.job("tickets-train-1")["metadata"]["name"]
    world.place.patch("jobs", name, {"spec": {"suspend": True}})
    until(lambda: is_summed_up(world, "Unknown", "Pending"), "it is told")
    is_at_work(world)
    assert world.place.get("jobs", name)["spec"]["suspend"], "Kueue does this: it is not for us to undo"
    world.place.patch("jobs", name, {"spec": {"suspend": False}})
    play(world, {"train": TRAINED}, lambda: is_summed_up(world, "True", "Succeeded"), "it is trained")
    assert made(world).count("tickets-train-1") == 1


# Another object by the same name


@pytest.mark.parametrize("propagation", ["Background", "Foreground", "Orphan"])
@pytest.mark.row(40)
def test_a_job_deleted_and_made_again_under_its_name_meets_no_old_child(api, world: World, propagation: str):
    world.place.make("finetunejobs", make_finetunejob())
    play(world, NO_END, lambda: trains(world), "it trains")
    old = {j["metadata"]["name"]: j["metadata"]["uid"] for j in world.place.list("jobs")}
    delete_own(api, world, "finetunejobs", "tickets", propagation)
    finetuned(world)
    jobs = {j["metadata"]["name"]: j["metadata"]["uid"] for j in world.place.list("jobs")}
    assert {name: jobs[name] for name in old if name in jobs} == (old if propagation == "Orphan" else {})
    assert len(jobs.keys() - old.keys()) == 2
    assert [a["number"] for a in job_status(world)["attempts"]] == [1]


@pytest.mark.parametrize("propagation", ["Background", "Orphan"])
@pytest.mark.row(40)
def test_a_deployment_made_again_under_its_name_meets_no_old_child(api, world: World, propagation: str):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    world.stage.errors["r2"] = 0.6
    world.stage.successor()
    until(lambda: world.stage.condition("Stalled") == "True/RolledBack", "r2 is rejected")
    old = {c["metadata"]["uid"]: c["spec"] for c in all_children(world) if "spec" in c}
    spec = world.place.get("modeldeployments", "support")["spec"]
    delete_own(api, world, "modeldeployments", "support", propagation)
    make_again(world, spec)
    until(lambda: world.stage.condition("Ready") == "True/Initial", "a first revision serves")
    now = {c["metadata"]["uid"]: c["spec"] for c in all_children(world) if "spec" in c}
    assert {uid: now[uid] for uid in old if uid in now} == (old if propagation == "Orphan" else {})
    [entry] = world.stage.status()["history"]
    assert entry["revision"].startswith("r1-"), "what was rejected in another life is not known in this one"


def make_again(world: World, spec: Json) -> None:
    body = make_modeldeployment(namespace=world.place.name)
    world.stage.create("modeldeployments", {**body, "spec": spec, "metadata": {"name": "support"}})


# The namespace that went


@pytest.mark.row(42)
def test_a_namespace_with_live_objects_is_gone_at_last_and_may_come_again(api, leaving: Leaving):
    world, name = leaving.world, leaving.world.place.name
    until(lambda: api.get(f"/api/v1/namespaces/{name}").status_code == 404, "the namespace is gone", seconds=120)
    assert len([w for w in world.proxy.writes if w.status == 403]) < 60, "what cannot be made is not tried without end"
    since = len(world.proxy.writes)
    assert api.post("/api/v1/namespaces", json=namespace_named(name)).status_code == 201
    world.place.make_claims(*CLAIMS)
    world.place.make("finetunejobs", make_finetunejob())
    until(lambda: world.place.job_names() == {"tickets-data-1"}, "a Job in the new one of the old name")
    assert [w for w in world.proxy.writes[since:] if w.status not in (200, 201)] == []
    world.operator.kill()
    assert "Traceback" not in world.log()


# A start among many


@pytest.mark.row(8)
def test_a_start_among_many_settled_objects_writes_nothing(api, routes, namespace, tmp_path, record_property):
    count, port = int(os.environ.get("LUTHIER_SETTLED", "300")), free_port()
    with open_world(api, f"{namespace}-many", tmp_path, health_port=port) as world:
        world.operator.start()
        finetuned(world)
        evaluated(world)
        begin_first(world)
        until(lambda: first_serves(world), "the first revision serves")
        world.operator.kill()
        multiply(api, world, count)
        first = start_among(world, count + 4, port=port)
        assert first.writes, "those that are suspended or wait are told so"
        world.operator.kill()
        again = start_among(world, count + 4, port=port)
        print(again)
        record_property("settled_objects", again.objects)
        record_property("settled_writes", len(again.writes))
        assert again.writes == ()


# A watch that is half open

SILENT_SECONDS, SLACK_SECONDS = 70, 20
"""What `kube.SILENCE_SECONDS` promises, and what a busy machine may add."""
WATCHES = {
    "ours": ("/apis/luthier.dev/.*", lambda world: is_at_work(world, seconds=110)),
    "children": (
        "/apis/apps/.*/deployments",
        lambda world: until(lambda: world.stage.list("deployments"), "the Deployment is there again", seconds=110),
    ),
}


@pytest.mark.parametrize("which", WATCHES)
@pytest.mark.row(19)
def test_a_watch_that_hears_nothing_is_replaced(api, world: World, which: str):
    path, expected = WATCHES[which]
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    times = 3 if which == "ours" else 1  # each open watch once; those that follow work
    world.proxy.arm(Rule(act="watch-silence", path=path, seconds=120, times=times))
    until(lambda: len(world.proxy.fired) == times, "the watches are silent")
    began = time.monotonic()
    if which == "children":
        Hands(api, world).delete_child("deployments", "r1")
    expected(world)
    took = time.monotonic() - began
    print(f"{which}: {took:.0f} s")
    assert took <= SILENT_SECONDS + SLACK_SECONDS
    assert world.operator.starts == 1
