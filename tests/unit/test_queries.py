"""Custom metrics: bounds, failureLimit, and that what is no single number neither passes nor fails."""

from __future__ import annotations

import math
import re

import pytest

from fastworld import entry, serving
from luthier.ports import Sample
from luthier.prometheus import PrometheusError
from servingworld import World

COST = {"name": "Cost", "query": 'sum(cost{namespace="$namespace",pod=~"$pods"}[$window])'}
PLAN = [{"setWeight": 50}, {"analysis": {}}]


def with_query(values, **query) -> World:
    """Return a world in mid-rollout whose Prometheus answers by side: "r1", "r2"."""
    query = {**COST, "intervalSeconds": 10, "windowSeconds": 10, **query}
    world = serving(steps=PLAN, analysis={"minSamples": 50, "queries": [query]})
    raw = world.prometheus.raw
    world.asked = []

    async def answer(text):
        if "cost{" not in text:
            return await raw(text)
        assert re.fullmatch(r'sum\(cost\{namespace="team",pod=~"support-r[12]-[-a-z0-9]+-\.\*"\}\[10s\]\)', text), text
        side = "r2" if "-r2-" in text else "r1"
        world.asked.append(side)
        found = values(side) if callable(values) else values[side]
        if isinstance(found, Exception):
            raise found
        return [Sample(labels={}, value=v, at=world.now.timestamp()) for v in found]

    world.prometheus.raw = answer
    world.successor()
    return world


def custom(world: World) -> dict:
    return world.status["rollout"]["analysis"]["queries"][0]


def is_promoted(world: World) -> bool:
    return world.status["stable"]["name"].startswith("r2")


def test_within_its_bounds_it_passes_and_the_stable_is_not_asked_for_nothing():
    world = with_query({"r2": [2.0]}, max="2.5", min="1")
    assert world.run(300, until=lambda: is_promoted(world))
    assert set(world.asked) == {"r2"}


@pytest.mark.parametrize(
    ("bounds", "values", "says"),
    [
        ({"max": "2.5"}, {"r2": [3.0]}, "Cost 3, above 2.5 (3 of 2 failures allowed)"),
        ({"min": "2.5"}, {"r2": [-1.0]}, "Cost -1, below 2.5"),
        ({"maxIncreasePercent": 10}, {"r1": [-1.0], "r2": [-0.8]}, "Cost -0.8 vs -1, more than 10 % above the stable"),
        ({"maxIncreasePercent": 10}, {"r1": [1.0], "r2": [1.2]}, "Cost 1.2 vs 1, more than 10 % above the stable"),
        ({"maxDecreasePercent": 10}, {"r1": [1.0], "r2": [0.8]}, "Cost 0.8 vs 1, more than 10 % below the stable"),
    ],
)
def test_out_of_its_bounds_too_often_it_takes_the_candidate_back(bounds, values, says):
    world = with_query(values, **bounds)
    assert world.run(120, until=lambda: entry(world)["revision"].startswith("r2"))
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "AnalysisFailed"
    assert entry(world)["message"].startswith(says)
    assert world.asked.count("r2") == 3


def test_out_of_bounds_as_often_as_allowed_it_goes_on():
    bad = iter([9.0, 9.0])
    world = with_query(lambda side: [next(bad, 1.0)], max="2.5")
    assert world.run(300, until=lambda: is_promoted(world))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "0 series instead of one"),
        ([1.0, 1.0], "2 series instead of one"),
        ([math.nan], "the result is nan"),
        ([math.inf], "the result is inf"),
        (PrometheusError("bad query"), "bad query"),
    ],
)
def test_what_is_no_single_number_neither_passes_nor_fails(values, says):
    world = with_query({"r2": values}, max="2.5", failureLimit=0)
    world.run(200)
    assert world.weights() == {"r1": 50, "r2": 50}
    assert custom(world)["outcome"] == "Inconclusive"
    assert custom(world)["message"].startswith(says)
    assert custom(world)["failures"] == 0


def test_it_is_asked_as_often_as_its_interval_says():
    world = with_query({"r2": [9.0]}, max="2.5", failureLimit=1000)
    world.run(130)
    assert 10 <= len(world.asked) <= 13


def test_it_counts_for_one_weight():
    world = with_query({"r2": [9.0]}, max="2.5", failureLimit=1000)
    world.run(60)
    assert custom(world)["failures"] > 1
    world.set_ready("r2", False)
    world.run(4)
    world.set_ready("r2", True)
    world.run(16)
    assert custom(world)["failures"] <= 1
