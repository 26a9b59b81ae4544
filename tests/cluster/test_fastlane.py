"""The fast lane on a real API server: the operator process asks pods that answer on loopback."""

from __future__ import annotations

import signal
import time

import pytest

from servingstage import Stage
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.speaks = True
    return stage


def history(stage: Stage) -> dict:
    return stage.status()["history"][0]


def in_canary(stage: Stage) -> Stage:
    """Bring a candidate to 10 %, where it stays."""
    stage.change(rollout={"analysis": {"minSamples": 100_000}})
    stage.successor()
    until(lambda: is_judged(stage), "r2 is judged at 10 %", seconds=60)
    return stage


def is_judged(stage: Stage) -> bool:
    rollout = stage.status().get("rollout", {})
    return rollout.get("step") == 2 and "weightInForceAt" in rollout


def test_a_breach_is_taken_back_within_seconds_while_prometheus_is_down(serving: Stage):
    stage = in_canary(serving)
    stage.down = True
    until(lambda: stage.condition("Ready") == "False/MetricsUnavailable", "it is held", seconds=30)
    stage.errors["r2"] = 1.0
    began = time.monotonic()
    until(lambda: stage.weights() == {"r1": 100}, "the weight is back", seconds=30)
    assert time.monotonic() - began < 15
    until(lambda: stage.condition("Stalled") == "True/RolledBack", "status says so")
    assert history(stage)["reason"] == "AnalysisFailed"
    assert history(stage)["metrics"][0]["candidateBad"] >= 3


def test_an_operator_that_starts_while_prometheus_is_down_takes_a_breach_back(serving: Stage, operator, prometheus):
    stage = in_canary(serving)
    stage.down = True
    stage.operator.send_signal(signal.SIGKILL)
    stage.operator.wait()
    stage.errors["r2"] = 1.0
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    until(lambda: stage.weights() == {"r1": 100}, "the weight is back", seconds=60)
    until(lambda: stage.condition("Stalled") == "True/RolledBack", "status says so")
    assert history(stage)["reason"] == "AnalysisFailed"


def test_a_healthy_candidate_goes_nowhere_without_prometheus_and_on_with_it(serving: Stage):
    serving.successor()
    until(lambda: serving.weights().get("r2"), "r2 has traffic", seconds=60)
    serving.down = True
    until(lambda: serving.condition("Ready") == "False/MetricsUnavailable", "it is held", seconds=30)
    sent, held = serving.servers.asked, serving.weights()
    until(lambda: serving.servers.asked > sent + 30, "its pods were asked for a while", seconds=60)
    assert serving.weights() == held
    serving.down = False
    until(lambda: serving.weights().get("r2") == 50, "it goes on", seconds=60)


def test_one_safety_incident_takes_a_candidate_back(serving: Stage):
    stage = in_canary(serving)
    stage.down = True
    stage.incidents["r2"] = 1
    until(lambda: stage.condition("Stalled") == "True/RolledBack", "r2 is taken back", seconds=30)
    assert history(stage)["reason"] == "SafetyIncident"
    assert stage.weights() == {"r1": 100}
