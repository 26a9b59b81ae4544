"""The sample-ratio check: how often it is wrong, how soon it is right, and what follows."""

from __future__ import annotations

import math
import random

import pytest

from fastworld import serving
from luthier.deployment.split import ALPHA, is_mismatch, log_evidence
from luthier.router import route_weights


def first_alarm(rng: random.Random, *, weight: int, real: float, requests: int) -> int | None:
    """Look after every request; return at which one the split was called wrong."""
    ours = 0
    for n in range(1, requests + 1):
        ours += rng.random() < real
        if log_evidence(ours, n - ours, weight=weight) >= -math.log(ALPHA):
            return n
    return None


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1, 10, 50])
def test_a_right_split_is_called_wrong_less_often_than_promised(weight):
    """2000 runs of 1000 requests, a look after each: at most ALPHA, two are expected at most."""
    rng = random.Random(weight)
    alarms = sum(first_alarm(rng, weight=weight, real=weight / 100, requests=1000) is not None for _ in range(2000))
    assert alarms <= 2 * 2000 * ALPHA + 2


@pytest.mark.parametrize(("weight", "real", "within"), [(10, 0.2, 400), (50, 0.6, 900), (50, 0.0, 60), (5, 0.1, 900)])
def test_a_wrong_split_is_called_so_soon(weight, real, within):
    found = [first_alarm(random.Random(seed), weight=weight, real=real, requests=within) for seed in range(20)]
    assert sum(n is not None for n in found) >= 18


def test_what_one_side_may_be_read_late_is_no_mismatch():
    assert is_mismatch(100, 1900, weight=10, lag_share=0.0)
    assert not is_mismatch(100, 1900, weight=10, lag_share=0.5)
    assert not is_mismatch(0, 5000, weight=0, lag_share=0.0)
    assert not is_mismatch(0, 5000, weight=10, lag_share=1.0)


def with_leak(world, share: float) -> None:
    """Let the gateway lose a share of the candidate's requests."""
    request = world._request
    world._request = lambda pod: None if "-r2-" in pod and world.random.random() < share else request(pod)


def test_a_candidate_that_gets_fewer_requests_than_its_weight_is_held_and_not_taken_back():
    world = serving(steps=[{"setWeight": 50}, {"analysis": {}}], analysis={"minSamples": 500})
    with_leak(world, 0.6)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Ready") == "False/SplitMismatch")
    world.run(120)
    assert world.weights() == {"r1": 50, "r2": 50}
    assert "% of the requests reach the candidate" in world.message("Ready")
    assert [e.reason for e in world.events].count("SplitMismatch") == 1
    assert world.status["rollout"]["analysis"]["outcome"] == "Error"


def test_a_right_split_goes_on():
    for seed in range(3):
        world = serving(analysis={"minSamples": 200})
        world.random = random.Random(seed)
        world.successor()
        assert world.run(600, until=lambda world=world: world.status["stable"]["name"].startswith("r2"))
        assert "SplitMismatch" not in [e.reason for e in world.events]


def test_the_time_in_which_the_candidate_had_no_pods_is_no_part_of_it():
    world = serving(steps=[{"setWeight": 50}, {"pause": {}}])
    world.successor()
    world.run(60)
    world.set_ready("r2", False)
    world.run(60)
    assert route_weights(world.child("HTTPRoute"))
    assert world.weights() == {"r1": 100}
    world.set_ready("r2", True)
    world.run(60)
    assert world.condition("Ready") == "False/WaitingForApproval"
    assert "SplitMismatch" not in world.status["rollout"]["analysis"]["message"]


def test_a_route_that_is_made_again_is_judged_from_then_on():
    world = serving(steps=[{"setWeight": 50}, {"analysis": {}}], analysis={"minSamples": 500})
    request = world._request
    with_leak(world, 0.6)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Ready") == "False/SplitMismatch")
    world._request = request
    world.children = {key: child for key, child in world.children.items() if key[0] != "HTTPRoute"}
    assert world.run(120, until=lambda: world.weights() == {"r1": 50, "r2": 50})
    assert world.run(300, until=lambda: world.status["stable"]["name"].startswith("r2"))
