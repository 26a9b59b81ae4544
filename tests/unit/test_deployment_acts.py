"""What people order in mid-rollout: approve, abort, promote, pin, retry, by spec and by annotation."""

from __future__ import annotations

import pytest

from factories import make_modeldeployment
from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.deployment.acts import read_acts
from servinglife import entry, serving
from servingworld import Behaviour, Killed, World, passed_evaluation, tuned_job

PAUSED = [{"setWeight": 10}, {"pause": {}}, {"analysis": {}}, {"setWeight": 50}, {"pause": {"durationSeconds": 900}}]
UNDECIDED = {"minSamples": 1_000_000, "maxStepSeconds": 30}


def annotate(world: World, act: str, value: str) -> None:
    world.obj["metadata"].setdefault("annotations", {})[f"luthier.dev/{act}"] = value


def candidate(world: World) -> str:
    return world.status["candidate"]["name"]


def events(world: World, reason: str) -> list:
    return [e for e in world.events if e.reason == reason]


def is_promoted(world: World) -> bool:
    return world.status["stable"]["name"].startswith("r2-")


def promoted_twice() -> World:
    """Return a world where r2 has replaced r1, whose pods are gone."""
    world = serving()
    world.successor()
    assert world.run(600, until=lambda: is_promoted(world))
    world.run(80)
    assert world.replicas("r1") == 0
    return world


def pin(world: World, revision: str | None) -> None:
    record = revision and next(n for k, n in world.children if k == "ControllerRevision" and f"-{revision}-" in n)
    name = record and world.children["ControllerRevision", record]["data"]["name"]
    world.spec(rollout={"pin": name and {"revision": name, "by": "alice", "reason": "r2 is rude"}})


# Reading


def acts(annotations: dict[str, str], **rollout):
    obj = make_modeldeployment(rollout=rollout)
    obj["metadata"]["annotations"] = {f"luthier.dev/{act}": value for act, value in annotations.items()}
    return read_acts(obj, ModelDeploymentSpec.model_validate(obj["spec"]))


def test_annotations_say_the_same_as_the_spec():
    read = acts(
        {
            "approve": "r8-5f3a9c1b/4",
            "abort": "r8-5f3a9c1b bob: wrong data",
            "retry": " r7-5f3a9c1b ",
            "promote": "r8-5f3a9c1b/skipAnalysis alice: the stable is broken: see #12",
        },
        approve={"revision": "r8-5f3a9c1b", "step": 2},
        abort={"revision": "r6-5f3a9c1b"},
    )
    assert read.approved("r8-5f3a9c1b") == {2, 4}
    assert set(read.aborts) == {"r8-5f3a9c1b", "r6-5f3a9c1b"}
    assert read.aborts["r8-5f3a9c1b"].signed == " (bob: wrong data)"
    assert list(read.retries) == ["r7-5f3a9c1b"]
    order = read.promotes["r8-5f3a9c1b"]
    assert (order.by, order.reason, order.skip_analysis) == ("alice", "the stable is broken: see #12", True)
    assert read.complaint is None


@pytest.mark.parametrize(
    ("act", "value"),
    [
        ("approve", "r8-5f3a9c1b"),
        ("approve", "r8/4"),
        ("abort", "yes"),
        ("retry", ""),
        ("promote", "r8-5f3a9c1b/skipAnalysis"),
        ("promote", "r8-5f3a9c1b/skipAnalysis alice"),
        ("promote", "r8-5f3a9c1b/everything alice: why"),
    ],
)
def test_an_annotation_that_cannot_be_read_does_nothing_and_says_so(act, value):
    read = acts({act: value})
    assert (read.approvals, read.aborts, read.retries, read.promotes) == (frozenset(), {}, {}, {})
    assert f"luthier.dev/{act}" in read.complaint
    assert "write REVISION" in read.complaint


def test_of_two_promotions_the_one_that_goes_further_counts():
    skip = {"promote": "r8-5f3a9c1b/skipAnalysis alice: why"}
    assert acts(skip, promote={"revision": "r8-5f3a9c1b"}).promotes["r8-5f3a9c1b"].skip_analysis
    full = {"revision": "r8-5f3a9c1b", "skipAnalysis": True, "by": "bob", "reason": "why"}
    assert acts({"promote": "r8-5f3a9c1b"}, promote=full).promotes["r8-5f3a9c1b"].by == "bob"


def test_the_condition_says_which_annotation_has_no_effect():
    world = serving()
    annotate(world, "approve", "please")
    world.settle()
    assert "luthier.dev/approve is 'please' and has no effect" in world.message("Ready")


# Approve, abort, retry by annotation


def test_a_pause_is_approved_by_annotation_and_another_revision_s_is_none():
    world = serving(steps=PAUSED)
    world.successor()
    world.run(60, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    annotate(world, "approve", f"{world.status['stable']['name']}/2")
    world.run(20)
    assert world.condition("Ready") == "False/WaitingForApproval"
    annotate(world, "approve", f"{candidate(world)}/2")
    assert world.run(20, until=lambda: world.status["rollout"]["step"] == 3)


def test_an_abort_by_annotation_says_who_and_the_revision_can_be_retried_by_one():
    world = serving(steps=PAUSED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    name = candidate(world)
    annotate(world, "abort", f"{name} bob: wrong data")
    world.prometheus_hangs = True  # an abort waits for no numbers
    world.tick()
    assert world.weights() == {"r1": 100}
    assert (entry(world)["outcome"], entry(world)["by"]) == ("Aborted", "bob")
    assert "annotation luthier.dev/abort names it (bob: wrong data)" in entry(world)["message"]
    world.prometheus_hangs = False
    world.settle()
    assert world.condition("Stalled") == "True/Aborted"
    annotate(world, "retry", name)
    world.tick()
    assert candidate(world).startswith("r3-")


# Promote


def test_a_promotion_approves_pauses_and_waits_for_analyses():
    world = serving(steps=PAUSED)
    world.successor()
    world.run(60, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    world.spec(rollout={"promote": {"revision": candidate(world), "by": "alice", "reason": "read the report"}})
    world.rate = 0
    world.run(60)
    assert world.status["rollout"]["step"] == 3  # nobody asks it anything: the analysis is undecided
    assert world.condition("Overridden") is None
    world.rate = 20
    assert world.run(120, until=lambda: is_promoted(world))
    assert (entry(world)["reason"], entry(world)["by"]) == ("PausesApproved", "alice")
    assert "every pause approved (alice: read the report)" in entry(world)["message"]
    assert len(events(world, "PausesApproved")) == 1


def test_a_promotion_overrides_no_fail():
    world = serving(steps=PAUSED)
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    world.tick()
    world.spec(rollout={"promote": {"revision": candidate(world)}})
    assert world.run(300, until=lambda: "candidate" not in world.status)
    assert entry(world)["reason"] == "AnalysisFailed"


def skip(world: World) -> None:
    act = {"revision": candidate(world), "skipAnalysis": True, "by": "alice", "reason": "the stable leaks"}
    world.spec(rollout={"promote": act})


@pytest.mark.parametrize("trouble", ["a fail", "no metrics", "undecided", "a failing stable", "a stable without pods"])
def test_a_promotion_without_analysis_goes_on_and_says_who_and_why(trouble):
    world = serving(analysis=UNDECIDED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    skip(world)
    if trouble == "a fail":
        world.behaviour["r2"] = Behaviour(errors=0.9)
    elif trouble == "no metrics":
        world.prometheus_error = "down"
    elif trouble == "a failing stable":
        world.behaviour["r1"] = Behaviour(errors=0.9)
    elif trouble == "a stable without pods":
        world.set_ready("r1", False)
    world.tick()
    assert world.condition("Overridden") == "True/AnalysisSkipped"
    assert "(alice: the stable leaks)" in world.message("Overridden")
    seen = []
    assert world.run(60, until=lambda: seen.append(world.weights()["r2"]) or is_promoted(world))
    assert sorted(set(seen)) == seen[:1] + sorted(set(seen[1:]) - set(seen[:1]))  # it never went down
    assert entry(world)["outcome"] == "Promoted"
    assert (entry(world)["reason"], entry(world)["by"]) == ("AnalysisSkipped", "alice")
    assert "without analysis (alice: the stable leaks)" in entry(world)["message"]
    [event] = events(world, "AnalysisSkipped")
    assert event.type == "Warning"
    world.settle()
    assert world.condition("Overridden") is None
    assert world.condition("Ready") in ("True/Promoted", "False/NoReadyPods")


def test_a_promotion_without_analysis_gives_no_traffic_to_missing_pods():
    world = serving(analysis=UNDECIDED)
    world.pods_become = "pending"
    world.successor()
    world.tick()
    skip(world)
    world.run(60)
    assert world.weights() == {"r1": 100}
    world.set_ready("r2", True)
    assert world.run(60, until=lambda: is_promoted(world))


def test_a_promotion_without_analysis_saves_no_crash_loop():
    world = serving(analysis=UNDECIDED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    skip(world)
    world.set_ready("r2", False, restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}})
    world.run(4)
    assert entry(world)["reason"] == "CandidateCrashLooping"
    assert world.weights() == {"r1": 100}


def test_an_abort_wins_over_a_promotion():
    world = serving(analysis=UNDECIDED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    skip(world)
    annotate(world, "abort", candidate(world))
    world.settle()
    assert entry(world)["reason"] == "Aborted"


def test_a_promotion_of_another_revision_or_of_a_rejected_one_does_nothing():
    world = serving(steps=PAUSED)
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    world.tick()
    name = candidate(world)
    annotate(world, "promote", "r9-5f3a9c1b/skipAnalysis alice: why")
    assert world.run(300, until=lambda: "candidate" not in world.status)
    annotate(world, "promote", f"{name}/skipAnalysis alice: why")
    world.run(30)
    assert world.condition("Stalled") == "True/RolledBack"
    assert world.weights() == {"r1": 100}


def test_a_promotion_that_is_taken_away_leaves_its_trace_and_a_fail_counts_again():
    world = serving(analysis=UNDECIDED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    world.behaviour["r2"] = Behaviour(errors=0.9)
    skip(world)
    world.spec(suspend=True)  # so that it does not arrive at once
    world.run(60)
    assert world.weights() == {"r1": 90, "r2": 10}
    world.spec(suspend=False, rollout={"promote": None})
    world.tick()
    assert entry(world)["reason"] == "AnalysisFailed"
    assert len(events(world, "AnalysisSkipped")) == 1


# Pin


def test_a_pin_brings_an_older_revision_back_pods_first_and_its_removal_lets_the_spec_count_again():
    world = promoted_twice()
    world.pods_become = "pending"
    world.prometheus_hangs = True  # like a rollback, it needs no numbers
    pin(world, "r1")
    world.settle()
    assert world.weights() == {"r2": 100}
    assert world.replicas("r1") == 1
    assert world.condition("Ready") == "False/Pinned"
    world.set_ready("r1", True)
    world.settle()
    assert world.weights() == {"r1": 100}
    assert world.condition("Ready") == "False/Pinned"
    assert world.condition("Serving") == "True/Serving"
    assert world.condition("Overridden") == "True/Pinned"
    assert "(alice: r2 is rude)" in world.message("Overridden")
    assert (entry(world)["outcome"], entry(world)["reason"], entry(world)["by"]) == ("Promoted", "Pinned", "alice")
    assert len(events(world, "Pinned")) == 1
    world.prometheus_hangs, world.pods_become = False, "ready"
    world.run(30)
    assert "candidate" not in world.status
    pin(world, None)
    assert world.run(600, until=lambda: world.status["stable"]["name"].startswith("r3-"))
    assert world.condition("Overridden") is None


def test_a_pinned_revision_that_is_not_the_spec_s_is_never_ready_not_even_for_one_pass():
    world = promoted_twice()
    pin(world, "r1")
    seen = []
    while not (seen and world.status["stable"]["name"].startswith("r1-")):
        world.tick()
        seen.append(world.condition("Ready"))
    assert set(seen) == {"False/Pinned"}


def test_a_pin_does_not_wait_for_a_stable_without_pods():
    world = promoted_twice()
    world.set_ready("r2", False)
    pin(world, "r1")
    world.settle()
    assert world.weights() == {"r1": 100}


def test_a_pin_of_the_stable_takes_the_candidate_back_and_starts_nothing():
    world = serving(steps=PAUSED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    pin(world, "r1")
    world.settle()
    assert world.weights() == {"r1": 100}
    assert (entry(world)["outcome"], entry(world)["reason"], entry(world)["by"]) == ("Aborted", "Pinned", "alice")
    assert world.condition("Ready") == "False/Pinned"
    assert "rejected" not in world.status
    world.run(30)
    assert "candidate" not in world.status
    pin(world, None)
    world.run(10)
    assert candidate(world).startswith("r3-")


def test_a_pin_of_what_the_spec_asks_for_is_ready():
    world = serving()
    pin(world, "r1")
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    assert world.condition("Overridden") == "True/Pinned"


def test_a_pin_that_is_taken_away_half_way_leaves_the_stable():
    world = promoted_twice()
    world.pods_become = "pending"
    pin(world, "r1")
    world.settle()
    pin(world, None)
    world.settle()
    assert world.weights() == {"r2": 100}
    assert world.condition("Ready") == "True/Promoted"
    assert (entry(world)["outcome"], entry(world)["reason"]) == ("Aborted", "Reverted")
    world.set_ready("r1", True)
    pin(world, "r1")  # and it can be pinned again
    world.run(20)
    assert world.weights() == {"r1": 100}


@pytest.mark.parametrize("at", ["traffic", "a changed child"])
def test_a_pin_is_finished_after_a_crash(at):
    world = promoted_twice()
    world.fail_at = at
    pin(world, "r1")
    with pytest.raises(Killed):
        world.settle()
    world.fail_at = None
    world.settle()
    assert world.weights() == {"r1": 100}
    assert world.status["stable"]["name"].startswith("r1-")


def test_a_pin_of_a_rejected_revision_is_refused_and_nothing_starts():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    pin(world, "r2")
    world.settle()
    assert world.condition("Stalled") == "True/PinRefused"
    assert "was taken back" in world.message("Stalled")
    assert world.weights() == {"r1": 100}
    assert world.condition("Overridden") is None


def test_a_pin_of_a_candidate_is_no_way_around_the_analysis_and_rollback_still_works():
    world = serving(steps=PAUSED)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    pin(world, "r2")
    world.run(60)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.condition("Stalled") == "True/PinRefused"
    assert "use spec.rollout.promote" in world.message("Stalled")
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}


def test_a_pin_without_a_record_names_those_that_there_are():
    world = serving()
    world.spec(rollout={"pin": {"revision": "r7-00000000"}})
    world.settle()
    assert world.condition("Stalled") == "True/PinRefused"
    assert f"records: {world.status['stable']['name']}" in world.message("Stalled")


def test_a_pinned_record_is_not_pruned():
    world = promoted_twice()
    name = next(n for k, n in world.children if k == "ControllerRevision" and "-r1-" in n)
    pin(world, "r1")
    world.spec(revisionHistoryLimit=1)
    world.pods_become = "pending"
    for n in (3, 4):
        world.job = tuned_job(f"t{n}", digest="sha256:" + str(n) * 64)
        world.evaluation = passed_evaluation(f"e{n}", digest="sha256:" + str(n) * 64)
        world.spec(model={"fineTuneJob": {"name": f"t{n}"}}, requireEvaluation={"name": f"e{n}"})
        world.settle()
    assert ("ControllerRevision", name) in world.children
