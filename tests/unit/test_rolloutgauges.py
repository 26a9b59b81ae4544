"""The gauges say what status says, of the operator's own statuses, and nothing of what is over."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from luthier.rolloutgauges import RolloutGauges, code_of
from servingworld import Behaviour, World

ME = {"namespace": "team", "name": "support"}


class Shown:
    """A registry with the gauges."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges = RolloutGauges(self._registry)

    def show(self, *worlds: World) -> None:
        self._gauges.clear()
        for world in worlds:
            self._gauges.show(world.obj)

    def value(self, series: str, **labels: Any) -> float | None:
        return self._registry.get_sample_value(series, {**ME, **labels})

    def names(self) -> set[str]:
        return {sample.name for family in self._registry.collect() for sample in family.samples}


def serving(**analysis: Any) -> World:
    world = World(rate=20)
    analysis = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}], **analysis}
    world.spec(replicas=2, rollout={"steps": [{"setWeight": 10}, {"analysis": {}}], "analysis": analysis})
    world.settle()
    world.run(20)
    return world


def test_before_the_first_revision_serves_nobody_is_paged():
    world, shown = World(pods_become="pending"), Shown()
    world.settle()
    shown.show(world)
    assert "luthier_serving" not in shown.names()
    assert shown.value("luthier_pods_ready", role="candidate") == 0
    assert shown.value("luthier_pods_wanted") == 1


def test_a_rollout_is_shown_while_it_lasts():
    world, shown = serving(minSamples=100_000), Shown()
    world.successor()
    world.run(20)
    shown.show(world)
    assert shown.value("luthier_serving", reason="Serving") == 1
    assert shown.value("luthier_traffic_percent", role="candidate") == 10
    assert shown.value("luthier_traffic_percent", role="stable") == 90
    assert shown.value("luthier_revision", role="candidate", revision=world.status["candidate"]["name"]) == 1
    assert (shown.value("luthier_rollout_step"), shown.value("luthier_rollout_steps")) == (2, 3)
    assert shown.value("luthier_rollout_look", outcome="Inconclusive", code="NotYet") == 1
    assert 0 < (shown.value("luthier_rollout_evidence_ratio", metric="ErrorRate") or 0) < 1
    world.behaviour["r2"] = Behaviour(errors=0.5)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    shown.show(world)
    assert not [name for name in shown.names() if name.startswith("luthier_rollout_")]
    assert shown.value("luthier_rollouts_ended", outcome="RolledBack") == 1
    assert shown.value("luthier_rollouts_ended", outcome="Promoted") == 1
    shown.show()
    assert shown.names() == set()


def test_pods_that_are_not_scraped_are_shown_as_such():
    world, shown = serving(), Shown()
    world._scrape = lambda: None
    world.samples.clear()
    world.successor()
    world.run(60)
    shown.show(world)
    assert shown.value("luthier_rollout_look", outcome="Inconclusive", code="CoverageLow") == 1


def test_a_stable_without_pods_does_not_serve():
    world, shown = serving(), Shown()
    world.set_ready("r1", False)
    world.settle()
    shown.show(world)
    assert shown.value("luthier_serving", reason="NoReadyPods") == 0
    assert shown.value("luthier_pods_ready", role="stable") == 0
    assert shown.value("luthier_pods_wanted") == 2


@pytest.mark.parametrize(
    ("message", "code"), [("NotYet(3/50): 3 of 50", "NotYet"), ("CoverageLow: no sample", "CoverageLow"), ("", "")]
)
def test_a_code_has_no_numbers(message, code):
    assert code_of(message) == code
