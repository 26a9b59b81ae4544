"""What people read: columns, intervals, sentences; and history's numbers against what clients really sent."""

from __future__ import annotations

import pytest

from luthier.api.modeldeployment import ModelDeploymentStatus, Weights
from luthier.deployment.display import bound, interval, share, show
from luthier.deployment.gates import Hypothesis
from luthier.deployment.memory import begin, load
from servingworld import Behaviour, Killed, World

STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def serving() -> World:
    world = World(rate=20)
    world.spec(rollout={"steps": STEPS, "analysis": ANALYSIS})
    world.settle()
    world.run(20)
    return world


def columns(world: World) -> tuple[str, ...]:
    shown = world.status["display"]
    return tuple(shown[name] for name in ("stable", "candidate", "step", "weight"))


def test_nothing_to_show_is_a_dash_and_no_gap():
    shown = show(ModelDeploymentStatus(), None)
    assert (shown.stable, shown.candidate, shown.step, shown.weight) == ("-", "-", "-", "-")
    assert show(ModelDeploymentStatus(), Weights(stable=100, candidate=0)).weight == "0%"


def test_the_columns_follow_a_rollout_and_its_end():
    world = serving()
    assert columns(world) == ("r1", "-", "-", "0%")
    world.behaviour["r2"] = Behaviour(errors=0.3)
    world.successor()
    world.run(10)
    assert columns(world) == ("r1", "r2", "2/5", "10%")
    assert world.run(300, until=lambda: "candidate" not in world.status)
    world.settle()
    assert columns(world) == ("r1", "-", "-", "0%")
    found = world.status["history"][0]["metrics"][0]
    percent = f"{100 * found['candidateBad'] / found['candidateStarted']:.0f}%"
    assert world.status["verdict"] == f"RolledBack(r2: errors {percent} vs 0%, {found['candidateStarted']} req)"


def test_a_verdict_keeps_a_metric_s_whole_name():
    world = World(rate=20, with_edges=True)
    metrics = [{"name": "LatencyCeiling", "ceilingSeconds": "3"}]
    world.spec(rollout={"steps": STEPS, "analysis": {**ANALYSIS, "metrics": metrics}})
    world.settle()
    world.run(20)
    world.behaviour["r2"] = Behaviour(seconds=5)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    assert world.status["verdict"].startswith("RolledBack(r2: over 3 s 100% vs 0%, ")


def test_history_counts_the_requests_of_all_steps_as_clients_do():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.01)
    world.successor()
    assert world.run(400, until=lambda: "candidate" not in world.status)
    entry = world.status["history"][0]
    assert entry["outcome"] == "Promoted"
    sent = next(c for pod, c in world.counters.items() if "-r2-" in pod)
    # The requests of the last scrape or two came after the look that let it go on.
    assert entry["metrics"][0]["candidateStarted"] < entry["requestsExposed"] <= sent["started"]
    assert entry["badServed"] <= sent.get("bad", 0)
    assert entry["message"].endswith(f"{entry['badServed']} bad of {entry['requestsExposed']} requests")


def test_a_rollback_says_how_many_requests_it_cost():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.4)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    sent = next(c for pod, c in world.counters.items() if "-r2-" in pod)
    entry = world.status["history"][0]
    assert (entry["requestsExposed"], entry["badServed"]) == (sent["started"], sent["bad"])
    assert entry["metrics"][0]["candidateInterval"].endswith(" %")
    assert entry["metrics"][0]["bound"] == "1.1 times the stable's, or 1 %"


def test_the_numbers_of_a_rollback_survive_a_death_before_status():
    world = serving()
    world.behaviour["r2"] = Behaviour(errors=0.4)
    world.successor()
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.run(300)
    world.fail_at = None
    world.prometheus_error = "gone meanwhile"
    world.settle()
    sent = next(c for pod, c in world.counters.items() if "-r2-" in pod)
    entry = world.status["history"][0]
    assert (entry["requestsExposed"], entry["badServed"]) == (sent["started"], sent["bad"])


def test_an_event_of_more_weight_has_the_numbers_that_allowed_it():
    world = serving()
    world.successor()
    assert world.run(400, until=lambda: "candidate" not in world.status)
    told = [e.message for e in world.events if e.reason == "WeightChanged" and e.message.startswith("r2-")]
    assert told[0].endswith("gets 10 % of the traffic (step 1 of 5)")
    assert "gets 50 % of the traffic (step 3 of 5); at 10 %: errors 0 % (0/" in told[1]
    assert "; at 50 %: errors " in told[2]


def test_what_an_older_operator_remembers_is_read_without_loss():
    memory = begin(7200.0).exposed(40, 2)
    assert load(memory.dump()) == memory
    old = memory.dump().replace('"exposed":[40,2],', "")
    found = load(old)
    assert found is not None
    assert (found.at, found.requests_exposed, found.bad_served) == (memory.at, 0, 0)


@pytest.mark.parametrize(
    ("bad", "started", "expected"),
    [(0, 0, ""), (0, 10, "0 to 28 %"), (10, 10, "72 to 100 %"), (50, 100, "40 to 60 %"), (2, 251, "0.22 to 2.9 %")],
)
def test_an_interval_is_wilson_s(bad, started, expected):
    assert interval(bad, started) == expected


@pytest.mark.parametrize(
    ("bad", "started", "expected"), [(0, 0, "-"), (0, 9, "0%"), (1, 100, "1.0%"), (21, 100, "21%"), (9, 9, "100%")]
)
def test_a_share_is_short(bad, started, expected):
    assert share(bad, started) == expected


@pytest.mark.parametrize(
    ("ratio", "floor", "expected"),
    [
        (1.1, 0.01, "1.1 times the stable's, or 1 %"),
        (1.0, None, "as the stable's"),
        (None, 0.005, "0.5 %"),
    ],
)
def test_a_bound_in_words(ratio, floor, expected):
    assert bound(Hypothesis(ratio=ratio, floor=floor)) == expected
