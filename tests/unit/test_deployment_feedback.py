"""Votes in the analysis: whose they are and when they decide; and the key that the operator makes and cannot read."""

from __future__ import annotations

import base64
import json
import logging
import random
from typing import Any

import pytest

from factories import make_modeldeployment
from fastworld import ANALYSIS, entry, poll, told
from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.children import Children
from luthier.deployment.analysis import Measured, read
from luthier.deployment.counters import (
    COUNTERS,
    Edges,
    PodCounters,
    pods_from_json,
    pods_to_json,
    split_by_look,
    timelines,
)
from luthier.deployment.feedback import build_key
from luthier.deployment.memory import Memory, load
from luthier.deployment.metrics import gates_of, threshold
from luthier.deployment.replies import merged, parse_reply, reply_timelines
from luthier.errors import Conflict
from luthier.ports import PodReply, Sample
from servingworld import Behaviour, World
from unit.test_deployment_analysis import PODS, SINCE, begun, samples, scene

ARMS = {"a-r2-": "candidate", "a-r1-": "stable"}
REVISIONS = {"r2-b": "candidate", "r1-a": "stable"}
UIDS = {name: uid for uid, name in PODS.values()}
OWN = {"a-r2-x": "r2-b", "a-r1-x": "r1-a"}


def sample(pod: str, at: float, revision: str, rating: str, value: float) -> Sample:
    labels = {"__name__": "luthier_feedback_total", "pod": pod, "pod_uid": UIDS[pod], "revision": revision}
    return Sample(labels={**labels, "rating": rating}, value=value, at=at)


def scraped(pod: str, at: float, votes: dict[str, tuple[int, int]]) -> list[Sample]:
    """Return a scrape of one pod: (up, down) by revision."""
    return [
        sample(pod, at, revision, rating, value)
        for revision, both in {OWN[pod]: (0, 0), **votes}.items()
        for rating, value in zip(("up", "down"), both, strict=True)
    ]


def votes_by_look(found, *, looks=1, seconds=10.0, pods=None):
    counts, newest = split_by_look(found, pods or {}, after=0.0, seconds=seconds, looks=looks)
    return [
        tuple(getattr(look, arm)[c] for arm in ("candidate", "stable") for c in ("down", "rated")) for look in counts
    ], newest


def in_slow_lane(rows: list[Sample]):
    return timelines(rows, arms=ARMS, edges=Edges(), revisions=REVISIONS)


def test_a_vote_is_its_revisions_whichever_pod_took_it():
    found = in_slow_lane(
        [
            *scraped("a-r1-x", 5, {"r1-a": (7, 1), "r2-b": (2, 3)}),
            *scraped("a-r2-x", 5, {"r1-a": (4, 0), "r2-b": (0, 5)}),
        ]
    )
    assert votes_by_look(found)[0] == [(8, 10, 1, 12)]


def test_the_first_vote_on_another_revision_counts_though_its_series_is_new():
    for before in (1, -1):  # in a look, and before the first one, where a pod's counting begins
        found = in_slow_lane([*scraped("a-r1-x", before, {}), *scraped("a-r1-x", 15, {"r2-b": (0, 1)})])
        assert votes_by_look(found, looks=2)[0] == [(0, 0, 0, 0), (1, 1, 0, 0)]


def test_votes_on_a_revision_that_is_neither_side_are_nobodys():
    found = in_slow_lane(scraped("a-r1-x", 5, {"r0-z": (9, 9), "": (9, 9)}))
    assert votes_by_look(found)[0] == [(0, 0, 0, 0)]


def test_a_pods_requests_and_votes_are_of_one_scraper_whatever_revision_its_votes_name():
    base = {"pod": "a-r1-x", "pod_uid": "uid-s", "revision": "r1-a"}
    started = Sample(labels={**base, "__name__": "luthier_requests_started_total"}, value=9, at=5)
    found = in_slow_lane([started, *scraped("a-r1-x", 5, {"r2-b": (1, 1)})])
    counts, _ = split_by_look(found, {}, after=0.0, seconds=10.0, looks=1)
    assert (counts[0].stable["started"], counts[0].candidate["rated"]) == (9, 2)


def reply(pod: str, at: float, votes: dict[str, list[int]] | None) -> PodReply:
    found = parse_reply(told(since=0.0, votes=votes), uid=UIDS[pod], name=pod, at=at)
    assert found is not None
    return found


def test_both_lanes_count_a_vote_once():
    rows = [("a-r1-x", at, {"r1-a": (at, 0), "r2-b": (0, at // 2)}) for at in range(1, 10)]
    slow = [s for pod, at, votes in rows for s in scraped(pod, at, votes)]
    said = [reply(pod, at + 0.3, {r: list(v) for r, v in votes.items()}) for pod, at, votes in rows]
    fast = reply_timelines(said, arms=ARMS, edges=Edges(), revisions=REVISIONS)
    alone, _ = votes_by_look(fast)
    together, _ = votes_by_look(merged(in_slow_lane(slow), fast, names={"a-r1-x": "uid-s"}))
    assert alone == together == [(4, 4, 0, 9)]


@pytest.mark.parametrize(
    "votes", [[], {"r": 1}, {"r": [1]}, {"r": [1, -1]}, {"r": [1, True]}, {f"r{i}": [0, 0] for i in range(17)}]
)
def test_votes_that_are_none_are_no_reply(votes):
    assert parse_reply(told(since=1.0, votes=votes), uid="u", name="a-r1-x", at=1.0) is None


def test_an_older_server_counts_neither_votes_nor_refusals():
    value = {k: v for k, v in told(since=1.0).items() if k not in ("refusals", "votes")}
    found = parse_reply(value, uid="u", name="a-r1-x", at=1.0)
    assert found is not None
    assert (found.refusals, found.votes) == (None, None)
    row = reply_timelines([found], arms=ARMS, edges=Edges(), revisions=REVISIONS)["u"].timeline[1.0]
    assert not {"refusals", "rated", "rated_other"} & row.keys()


def test_memory_of_pods_without_votes_is_as_an_older_operator_reads_it():
    old = dict.fromkeys(COUNTERS[:9], 1.0)
    without = PodCounters(arm="stable", at=1.0, values={**old, "rated": 0.0, "down_other": 0.0})
    assert len(without.to_list()) == 3 + 9
    assert pods_from_json(pods_to_json({"u": without}))["u"].values == old
    with_votes = PodCounters(arm="stable", at=1.0, values={**old, "rated": 2.0, "down": 1.0})
    assert pods_from_json(json.loads(json.dumps(pods_to_json({"u": with_votes}))))["u"] == with_votes


def test_ratings_survive_a_restart_and_leave_no_trace_where_there_are_none():
    memory = begun().rated(3, 4).rated(1, 0)
    assert load(memory.dump()) == memory
    assert memory.ratings == (4, 4)
    assert "rated" not in json.loads(begun().dump())


# The analysis


def gating(*metrics: dict[str, Any]):
    spec = make_modeldeployment(feedback={}, rollout={"analysis": {"metrics": [*metrics]}})["spec"]
    return gates_of(ModelDeploymentSpec.model_validate(spec))


BOTH = gating({"name": "ErrorRate"}, {"name": "Satisfaction"})


def with_votes(candidate: tuple[int, int], stable: tuple[int, int]) -> Measured:
    """Return samples of healthy requests and of (rated, down) votes in any order, all taken by the stable's pod."""
    rows = list(samples())
    mixed = {}
    for revision, (rated, down) in (("r2-b", candidate), ("r1-a", stable)):
        mixed[revision] = ["down"] * down + ["up"] * (rated - down)
        random.Random(revision).shuffle(mixed[revision])
    for i in range(51):
        taken = {r: all_[: round(len(all_) * i / 50)] for r, all_ in mixed.items()}
        counted = {r: (some.count("up"), some.count("down")) for r, some in taken.items()}
        rows += scraped("a-r1-x", SINCE.timestamp() + 2 * i - 1, counted)
    return Measured(samples=tuple(rows))


def judge(measured: Measured, memory: Memory | None = None, gates_=BOTH, **changes: Any):
    return read(memory or begun(), gates_, measured, scene(revisions=REVISIONS, **changes))


def metric(reading, name: str):
    return next(m for m in reading.metrics if m.name == name)


def test_many_down_votes_decide_nothing_while_either_side_has_fewer_than_fifty():
    for votes in (((49, 49), (200, 10)), ((200, 190), (49, 1))):
        reading = judge(with_votes(*votes))
        satisfaction = metric(reading, "Satisfaction")
        assert (reading.outcome, satisfaction.outcome) == ("Pass", "Inconclusive")
        assert "advisory until both sides have 50 votes" in satisfaction.message
    assert satisfaction.candidate_bad > 150  # shown all the same


def test_with_fifty_on_both_sides_down_votes_take_a_candidate_back():
    reading = judge(with_votes((60, 50), (200, 20)))
    assert reading.outcome == "Fail"
    assert reading.message.startswith("down votes ")
    assert reading.failed_at is not None


def test_as_many_down_votes_as_the_stables_pass():
    reading = judge(with_votes((100, 20), (100, 20)))
    assert (reading.outcome, metric(reading, "Satisfaction").outcome) == ("Pass", "Pass")


def test_a_suspicion_from_votes_lets_nothing_pass():
    reading = judge(with_votes((60, 50), (200, 20)), threshold=1e30)
    assert (reading.outcome, reading.code) == ("Inconclusive", "Suspected")


def test_a_few_votes_are_enough_for_a_step_of_many_requests():
    """Else a step would wait for a hundred people to vote."""
    reading = judge(with_votes((3, 0), (5, 0)), begun(ratings=(60, 60)))
    assert (reading.outcome, metric(reading, "Satisfaction").candidate_started) == ("Pass", 3)


def test_ratings_of_earlier_weights_count_toward_the_fifty():
    reading = judge(with_votes((30, 28), (100, 5)), begun(ratings=(20, 50)))
    assert reading.outcome == "Fail"
    assert reading.memory.ratings[0] > 30


def test_pods_without_votes_are_no_lack_of_coverage():
    reading = judge(Measured(samples=samples()))
    assert (reading.outcome, reading.code) == ("Pass", "Pass")


def test_refusals_are_a_rate_under_the_test():
    gates_ = gating({"name": "RefusalRate"})

    def refusing(candidate: int, stable: int) -> Measured:
        rows = list(samples())
        for (uid, name), end in ((PODS["candidate"], candidate), (PODS["stable"], stable)):
            labels = {"__name__": "luthier_refusals_total", "pod": name, "pod_uid": uid}
            rows += [
                Sample(labels=labels, value=round(end * i / 50), at=SINCE.timestamp() + 2 * i - 1) for i in range(51)
            ]
        return Measured(samples=tuple(rows))

    assert judge(refusing(4, 4), gates_=gates_).outcome == "Pass"
    worse = judge(refusing(80, 4), gates_=gates_)
    assert worse.outcome == "Fail"
    assert worse.message.startswith("refusals ")
    without = judge(Measured(samples=samples()), gates_=gates_)
    assert without.code == "CoverageLow"
    assert "no sample of luthier_refusals_total" in without.message


def test_what_is_judged_when_nothing_is_said():
    def names(**spec: Any) -> list[str]:
        obj = make_modeldeployment(rollout={"analysis": {"metrics": None}}, **spec)
        return [g.name for g in gates_of(ModelDeploymentSpec.model_validate(obj["spec"]))]

    assert names() == ["ErrorRate", "Latency"]
    assert names(feedback={}) == ["ErrorRate", "Latency"]  # anybody could vote a candidate down
    assert names(feedback={"identityHeader": "x-user-id"}) == ["ErrorRate", "Latency", "Satisfaction"]


def test_healthy_votes_take_back_no_more_than_the_threshold_allows():
    """Both sides have 20 % down votes, the bound is 20 % more: of 200 rollouts hardly one may fail."""
    failed = 0
    for seed in range(200):
        rng = random.Random(seed)
        rows, votes = list(samples()), {r: [0, 0] for r in REVISIONS}
        for i in range(51):
            for revision in REVISIONS:
                for _ in range(rng.randrange(8)):
                    votes[revision][rng.random() < 0.2] += 1
            rows += scraped("a-r1-x", SINCE.timestamp() + 2 * i - 1, {r: (v[0], v[1]) for r, v in votes.items()})
        failed += judge(Measured(samples=tuple(rows)), threshold=threshold_of_two()).outcome == "Fail"
    assert failed <= 2


def threshold_of_two() -> float:
    spec = ModelDeploymentSpec.model_validate(make_modeldeployment()["spec"])
    return threshold(spec.rollout.analysis, 2)


# A whole rollout


def serving(**behaviour: Any) -> World:
    world = World(rate=20)
    metrics = [{"name": "ErrorRate"}, {"name": "Satisfaction"}]
    steps = [{"setWeight": 50}, {"analysis": {}}, {"pause": {}}]
    world.spec(feedback={}, rollout={"steps": steps, "analysis": {**ANALYSIS, "metrics": metrics}})
    world.behaviour = {"r1": Behaviour(rated=0.3, down=0.1), "r2": Behaviour(**behaviour)}
    world.settle()
    world.run(20)
    return world


def test_people_who_vote_take_a_worse_model_back():
    world = serving(rated=0.3, down=0.6)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Stalled") == "True/RolledBack")
    assert entry(world)["message"].startswith("down votes ")
    assert " votes)" in world.status["verdict"]
    assert world.weights() == {"r1": 100}


def test_it_takes_no_prometheus_to_take_it_back():
    world = serving(rated=0.3, down=0.9)
    poll(world)
    world.successor()
    world.run(10)
    assert world.weights()["r2"] == 50
    world.prometheus_error = "down"
    assert world.run(300, until=lambda: world.condition("Stalled") == "True/RolledBack")


def test_a_model_that_people_like_as_much_goes_on_and_status_shows_their_votes():
    world = serving(rated=0.3, down=0.1)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    shown = {m["name"]: m for m in world.status["rollout"]["analysis"]["metrics"]}
    assert shown["Satisfaction"]["candidateStarted"] > 0
    assert shown["Satisfaction"]["bound"] == "1.2 times the stable's, or 1 %"


# The key


def made(world: World) -> list[str]:
    return [line for line in world.log if line == "apply Secret"]


def test_the_key_is_made_in_the_pass_of_its_pods_and_stays_as_it_is():
    world = World()
    world.spec(feedback={})
    world.pods_become = "pending"
    world.settle()
    assert world.log.index("apply Service") < world.log.index("apply Secret") < world.log.index("status")
    world.set_ready("r1", True)
    world.settle()
    assert [m for m in world.tick().apply if m["kind"] == "Secret"] == []
    world.successor()
    world.settle()
    assert len(made(world)) == 1
    assert len([key for key in world.children if key[0] == "Secret"]) == 1
    assert "feedback-key" not in json.dumps(world.status)


def test_a_key_that_was_deleted_is_made_again_as_soon_as_a_pod_needs_it():
    world = World()
    world.spec(feedback={})
    world.settle()
    world.children = {key: child for key, child in world.children.items() if key[0] != "Secret"}
    world.settle()
    assert len(made(world)) == 1  # those that run have theirs in memory
    world.set_ready("r1", False)
    world.settle()
    assert len(made(world)) == 2


def test_without_feedback_there_is_no_key():
    world = World()
    world.pods_become = "pending"
    world.settle()
    assert made(world) == []


class Creating:
    """An API server that takes creations, and nothing else."""

    def __init__(self, *, taken: bool = False) -> None:
        self.taken = taken
        self.bodies: list[dict[str, Any]] = []

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(manifest)
        if self.taken:
            raise Conflict(409, "already exists")
        return manifest


@pytest.mark.parametrize("taken", [False, True])
async def test_a_secret_is_created_with_a_new_key_and_never_read(taken, caplog):
    caplog.set_level(logging.DEBUG)
    kube, manifest = Creating(taken=taken), build_key(make_modeldeployment())
    children = Children(kube, store=None)  # type: ignore[arg-type]
    await children.ensure(manifest)
    await children.ensure(manifest)
    keys = [base64.b64decode(body["data"]["key"]) for body in kube.bodies]
    assert len({*keys}) == 2
    assert all(len(bytes.fromhex(key.decode())) == 32 for key in keys)
    assert "data" not in manifest
    assert keys[0].decode() not in caplog.text
