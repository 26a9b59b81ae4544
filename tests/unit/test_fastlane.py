"""The fast lane: which pods are asked how often, what a reply must be, and that no request is counted twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworld import entry, poll, serving, told
from luthier.deployment.counters import Edges, split_by_look, timelines
from luthier.deployment.fastlane import MAX_STABLE_PODS, FastLane, _batches, targets_of
from luthier.deployment.marks import marks_of
from luthier.deployment.replies import find_p95_edge, merged, parse_reply, reply_timelines, unpolled
from luthier.ports import PodReply, Sample
from luthier.settings import Settings
from luthier_server.counters import EDGES
from servingworld import Behaviour

ARMS = {"a-r2-": "candidate", "a-r1-": "stable"}
T0 = 1_000_000.0


def reply(pod: str, at: float, *, since: float = T0 - 5, **counters: float) -> PodReply:
    found = parse_reply(told(since=since, counters=counters), uid=f"uid-{pod}", name=pod, at=at)
    assert found is not None
    return found


def scraped(pod: str, at: float, *, since: float | None = T0 - 5, **counters: float) -> list[Sample]:
    """Return what Prometheus has of the same."""
    base = {"pod": pod, "pod_uid": f"uid-{pod}"}
    rows = [({"__name__": "luthier_requests_started_total"}, counters.get("started", 0))]
    rows += [({"__name__": "luthier_requests_total", "outcome": "refused"}, counters.get("bad", 0))]
    rows += [({"__name__": "luthier_counting_since_seconds"}, since)] if since is not None else []
    return [Sample(labels={**base, **labels}, value=value, at=at) for labels, value in rows]


def counted(samples, replies, *, looks=30, pods=None, seconds=1.0):
    slow, fast = timelines(samples, arms=ARMS, edges=Edges()), reply_timelines(replies, arms=ARMS, edges=Edges())
    found = merged(slow, fast, names={r.name: r.uid for r in replies})
    return split_by_look(found, pods or {}, after=T0, seconds=seconds, looks=looks)


def totals(counts) -> tuple[int, ...]:
    return tuple(
        sum(getattr(look, arm)[name] for look in counts)
        for arm in ("candidate", "stable")
        for name in ("started", "bad")
    )


@st.composite
def histories(draw):
    """Return samples of a few pods that count for 30 s, some of them restarted on the way."""
    rows = []
    for pod in draw(st.lists(st.sampled_from(["a-r2-x", "a-r2-y", "a-r1-x", "a-r1-y"]), min_size=1, unique=True)):
        started = bad = 0
        since = T0 - draw(st.integers(-3, 100))
        for second in range(31):
            if draw(st.integers(0, 19)) == 0:
                started = bad = 0
                since = T0 + second - 0.5
            more = draw(st.integers(0, 5))
            started, bad = started + more, bad + draw(st.integers(0, more))
            rows.append((pod, T0 + second, since, {"started": started, "bad": bad}))
    return rows


@settings(max_examples=60, deadline=None)
@given(rows=histories(), lanes=st.randoms(use_true_random=False))
def test_any_split_of_the_same_samples_into_lanes_gives_the_same_counts(rows, lanes):
    everything = counted([s for pod, at, since, c in rows for s in scraped(pod, at, since=since, **c)], [])
    slow, fast = [], []
    for pod, at, since, c in rows:
        lane = lanes.choice(["slow", "fast", "both"])
        slow += scraped(pod, at, since=since, **c) if lane != "fast" else []
        fast += [reply(pod, at, since=since, **c)] if lane != "slow" else []
    counts, pods = counted(slow, fast)
    assert counts == everything[0]
    assert {pod: p.values for pod, p in pods.items()} == {
        pod: {**p.values, **pods[pod].values} for pod, p in everything[1].items()
    }


@settings(max_examples=100, deadline=None)
@given(lanes=st.randoms(use_true_random=False), skew=st.floats(-1.5, 1.5))
def test_clocks_that_differ_count_nothing_twice(lanes, skew):
    """Prometheus' clock is not ours: a sample of it that looks newer may be older."""
    started, slow, fast = 0, [], []
    for second in range(25):
        started += lanes.randint(0, 9)
        pod = {"started": started, "bad": started // 3}
        slow += scraped("a-r2-x", T0 + second + skew, **pod) if second % 2 and second > 2 else []
        fast += [reply("a-r2-x", T0 + second + 0.5, **pod)] if lanes.random() < 0.8 or second == 24 else []
    counts, _ = counted(slow, fast)
    assert totals(counts)[:2] == (started, started // 3)


def test_a_restart_that_one_lane_has_not_seen_yet_counts_nothing_twice():
    slow = [*scraped("a-r2-x", T0 + 1, started=1000), *scraped("a-r2-x", T0 + 5.4, started=1010)]
    fast = [
        reply("a-r2-x", T0 + 2, started=1000),
        reply("a-r2-x", T0 + 5, since=T0 + 4, started=3, bad=3),  # another process; the scrape above is late
        reply("a-r2-x", T0 + 6, since=T0 + 4, started=4, bad=4),
    ]
    known = counted(scraped("a-r2-x", T0 - 1, started=1000), [], looks=1)[1]
    assert totals(counted(slow, fast, pods=known)[0])[:2] == (4, 4)


def test_pods_of_an_older_server_are_counted_by_decreases():
    slow = [s for at, n in ((0, 5), (2, 9), (4, 2)) for s in scraped("a-r2-x", T0 + at, since=None, started=n)]
    assert totals(counted(slow, [])[0])[0] == 4 + 2


def test_a_pod_that_ran_for_long_and_was_never_read_starts_at_its_first_sample():
    replies = [reply("a-r1-x", T0 + at, since=T0 - 9000, started=n) for at, n in ((1, 10**6), (2, 10**6 + 3))]
    assert totals(counted([], replies)[0])[2] == 3


def test_stable_pods_that_are_not_polled_are_left_out_while_others_are():
    replies = [reply("a-r1-x", T0 + at, started=10 * at) for at in (1, 2)]
    slow = scraped("a-r1-y", T0 + 1, started=0) + scraped("a-r1-y", T0 + 2, started=500)
    scraped_, polled = timelines(slow, arms=ARMS, edges=Edges()), reply_timelines(replies, arms=ARMS, edges=Edges())
    assert unpolled(scraped_, polled, names={}) == {"uid-a-r1-y"}
    assert unpolled(scraped_, {}, names={}) == frozenset()
    found = merged(scraped_, polled, names={})
    counts, pods = split_by_look(found, {}, after=T0, seconds=1.0, looks=2, uncounted={"uid-a-r1-y"})
    assert totals(counts)[2] == 20
    assert pods["uid-a-r1-y"].values["started"] == 500  # it is known: a lump does not come later


@pytest.mark.parametrize(
    "change",
    [
        {"started": -1},
        {"started": "7"},
        {"started": True},
        {"started": 2**60},
        {"countingSince": None},
        {"countingSince": float("nan")},
        {"outcomes": {}},
        {"ageExceeded": [0]},
        {"younger": [1] * len(EDGES)},
        {"safetyIncidents": None},
    ],
)
def test_a_reply_that_is_none_is_dropped(change):
    assert parse_reply({**told(since=T0), **change}, uid="u", name="n", at=T0) is None


def test_the_p95_of_the_polled_pods():
    slow = {f"edge{i}": 100 if i < 30 else 5 if i == 30 else 0 for i in range(len(EDGES))}
    replies = [reply("a-r1-x", T0), reply("a-r1-x", T0 + 9, started=100, **slow)]
    assert find_p95_edge(replies, prefix="a-r1-") == 30
    assert find_p95_edge(replies, prefix="a-r2-") is None


# Lives


def test_a_breach_is_taken_back_while_prometheus_is_down():
    world = serving()
    poll(world)
    world.spec(rollout={"analysis": {"minSamples": 100_000}})
    world.successor()
    world.run(30)
    assert world.weights()["r2"] == 10
    world.prometheus_error = "down"
    world.run(20)
    world.behaviour["r2"] = Behaviour(errors=0.8)
    began = world.now
    assert world.run(60, until=lambda: world.weights() == {"r1": 100}), "rolled back"
    assert (world.now - began).total_seconds() <= 30
    assert entry(world)["reason"] == "AnalysisFailed"
    assert entry(world)["metrics"][0]["candidateBad"] >= 3


def test_a_breach_is_proven_by_the_pods_before_prometheus_is_asked():
    world = serving()
    poll(world)
    world.spec(rollout={"analysis": {"minSamples": 100_000}})
    world.successor()
    world.run(30)
    world.behaviour["r2"] = Behaviour(errors=0.8)
    world.prometheus_error = "down"  # these passes cannot have it from there
    with world.without_operator():
        world.run(30)
    world.prometheus_error, world.prometheus_hangs = None, True
    world.tick()
    assert world.weights() == {"r1": 100}


def test_nothing_is_promoted_without_prometheus():
    world = serving()
    poll(world)
    world.successor()
    world.run(8)
    assert world.weights()["r2"] == 10
    world.prometheus_error = "down"
    world.run(300)
    assert world.weights()["r2"] == 10
    assert world.condition("Ready") == "False/MetricsUnavailable"
    world.prometheus_error = None
    assert world.run(300, until=lambda: world.status["stable"]["name"].startswith("r2"))


@pytest.mark.parametrize("lane", ["fast", "slow"])
def test_one_safety_incident_takes_a_candidate_back(lane):
    world = serving(steps=[{"setWeight": 1}, {"pause": {}}])
    if lane == "fast":
        poll(world)
    world.successor()
    world.run(10)
    assert world.weights()["r2"] == 1
    world.prometheus_error = "down" if lane == "fast" else None
    stable = next(name for name in world.pods if "-r1-" in name)
    world.counters[stable]["critical"] = 3
    world.run(10)
    assert world.weights()["r2"] == 1, "the stable's are no news of the candidate"
    candidate = next(name for name in world.pods if "-r2-" in name)
    world.counters.setdefault(candidate, {})["critical"] = 1
    world.run(2)
    assert world.weights() == {"r1": 100}
    assert world.condition("Stalled") == "True/RolledBack"
    assert entry(world)["reason"] == "SafetyIncident"
    assert entry(world)["message"].startswith("1 critical safety incident of the candidate")
    assert world.status["verdict"] == "RolledBack(r2: SafetyIncident)"


def test_prometheus_back_again_counts_nothing_twice():
    world = serving(steps=[{"setWeight": 50}, {"analysis": {}}], analysis={"minSamples": 100_000})
    lane = poll(world)
    world.successor()
    world.run(20)
    for _ in range(3):
        world.prometheus_error = "down"
        world.run(70)
        world.prometheus_error, lane.is_deaf = None, True
        world.run(40)
        lane.is_deaf = False
        world.run(10)
    [metric] = world.status["rollout"]["analysis"]["metrics"]
    name = next(n for n in world.pods if "-r2-" in n)
    assert metric["candidateStarted"] <= world.counters[name]["started"]
    assert metric["candidateStarted"] > 0.9 * world.counters[name]["started"]


def test_healthy_candidates_are_not_taken_back_by_two_lanes():
    for seed in range(3):
        world = serving(analysis={"minSamples": 400})
        world.random = random.Random(seed)
        poll(world)
        world.behaviour |= {"r1": Behaviour(errors=0.02), "r2": Behaviour(errors=0.02)}
        world.successor()
        assert world.run(600, until=lambda world=world: world.status["stable"]["name"].startswith("r2"))


# Polling


def a_rollout(*, candidate: int, stable: int):
    """Return an object in mid-rollout and its pods."""
    world = serving()
    world.successor()
    world.run(10)
    pods = []
    for pod in world.pods.values():
        for i in range(candidate if "-r2-" in pod["metadata"]["name"] else stable):
            meta = {**pod["metadata"], "name": f"{pod['metadata']['name']}-{i}"}
            meta["uid"] = f"uid-{meta['name']}"
            pods.append({"metadata": meta, "status": {**pod["status"], "podIP": f"10.0.0.{i}"}})
    return world.obj, pods


class Pods:
    """A store and pods that answer."""

    def __init__(self, *rollouts):
        self.objects = [obj for obj, _ in rollouts]
        self.pods = {obj["metadata"]["uid"]: pods for obj, pods in rollouts}
        self.asked: Counter[str] = Counter()
        self.answer = {}

    def owned(self, owner_uid, resource):
        return self.pods[owner_uid]

    def marked(self, mark):
        return [obj for obj in self.objects if mark in marks_of(obj)]

    async def json(self, url):
        self.asked[url] += 1
        return self.answer


def test_all_pods_of_the_candidate_and_sixteen_of_the_stable_are_asked():
    obj, pods = a_rollout(candidate=20, stable=40)
    targets = targets_of(obj, Pods((obj, pods)))
    assert Counter("r2" if "-r2-" in t.name else "r1" for t in targets) == {"r2": 20, "r1": MAX_STABLE_PODS}
    assert all(t.url.endswith(":8000/luthier/counters") for t in targets)
    assert targets == targets_of(obj, Pods((obj, pods[::-1])))  # always the same ones


def test_at_most_200_pods_a_second_are_asked_and_the_objects_take_turns():
    big, small = [f"b{i}" for i in range(500)], ["s0", "s1"]
    batches = list(_batches({"big": big, "small": small}))  # type: ignore[dict-item]
    assert [len(b) for b in batches] == [200, 200, 102]
    assert {t for _, t in batches[0]} >= {"s0", "s1"}
    assert sum(map(len, batches)) == 502


async def test_the_lane_wakes_an_object_that_its_pods_prove_worse_and_forgets_when_it_ends():
    obj, pods = a_rollout(candidate=1, stable=1)
    world, woken = Pods((obj, pods)), []
    lane = FastLane(own=world, children=world, pods=world, settings=Settings(), wake=woken.append)
    world.answer = told(since=T0, counters={"started": 5})
    running = asyncio.create_task(lane.run())
    async with asyncio.timeout(10):
        while len(lane.replies(obj["metadata"]["uid"])) < 4:
            await asyncio.sleep(0.05)
        assert not woken
        world.answer = told(since=T0, counters={"started": 6, "critical": 1})
        while not woken:
            await asyncio.sleep(0.05)
    assert woken[0].name == obj["metadata"]["name"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert lane.replies(obj["metadata"]["uid"]) == ()
