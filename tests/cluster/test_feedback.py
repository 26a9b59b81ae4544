"""Votes on a real API server: the key that the operator makes once and cannot read, and what people's votes do."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.lives import begin_first, first_serves
from faults.rules import Rule
from faults.world import World
from luthier_server.response_ids import MIN_KEY_BYTES
from servingstage import Stage
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]


def keys(stage: Stage) -> list[Json]:
    return [s for s in stage.list("secrets") if s["metadata"]["name"].startswith("support-feedback-")]


def key_of(secret: Json) -> bytes:
    return base64.b64decode(secret["data"]["key"])


def with_votes(stage: Stage) -> Json:
    """Ask for votes, which is another revision; return the Secret."""
    stage.change(feedback={"identityHeader": "x-user-id"})
    [secret] = until(lambda: keys(stage), "the key is made", seconds=60)
    return secret


def test_the_key_is_made_once_and_stays_where_it_is(serving: Stage, operator, prometheus, tmp_path: Path):
    assert keys(serving) == []
    secret = with_votes(serving)
    key = key_of(secret)
    assert len(key) >= MIN_KEY_BYTES
    obj = serving.get("modeldeployments", "support")
    [owner] = secret["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (obj["metadata"]["uid"], True)
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "r2 has traffic", seconds=90)
    [pod] = serving.pods_of("r2")
    assert secret["metadata"]["name"] in json.dumps(pod["spec"]["volumes"])
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    serving.successor(3)
    until(lambda: serving.status().get("candidate", {}).get("name", "").startswith("r3-"), "r3 is tried", seconds=60)
    until(lambda: serving.weights().get("r3"), "r3 has traffic, with the same key", seconds=60)
    assert keys(serving) == [secret]
    for log in tmp_path.glob("operator-*.log"):
        assert key not in log.read_bytes()
    shown = [serving.get("modeldeployments", "support"), *serving.list("events"), *serving.list("controllerrevisions")]
    assert key.decode() not in json.dumps(shown)


def test_a_key_that_is_deleted_is_made_again_for_the_next_pod(serving: Stage):
    secret = with_votes(serving)
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "r2 has traffic", seconds=90)
    serving.delete("secrets", secret["metadata"]["name"])
    [pod] = serving.pods_of("r2")
    serving.delete("pods", pod["metadata"]["name"])
    [again] = until(lambda: keys(serving), "it is made again", seconds=60)
    assert key_of(again) != key_of(secret)


def test_down_votes_take_a_candidate_back_whichever_pod_took_them(serving: Stage):
    serving.down_votes = {"r1": 0.1, "r2": 0.7}
    metrics = [{"name": "ErrorRate"}, {"name": "Satisfaction"}]
    serving.change(feedback={}, rollout={"analysis": {"metrics": metrics}})
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "r2 is taken back", seconds=120)
    assert serving.weights() == {"r1": 100}
    entry = serving.status()["history"][0]
    assert entry["message"].startswith("down votes ")
    votes = next(m for m in entry["metrics"] if m["name"] == "Satisfaction")
    assert (votes["outcome"], votes["candidateBad"] > votes["candidateStarted"] / 3) == ("Fail", True)


@pytest.mark.row(22)
def test_without_the_right_to_make_the_key_it_is_told_and_what_serves_goes_on(world: World):
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves", seconds=60)
    world.proxy.arm(Rule(act="status", method="POST", path=".*/secrets", status=403, times=0))
    world.stage.pending.add("r2")  # a kubelet starts no pod whose Secret is missing
    world.stage.change(feedback={})
    until(lambda: world.stage.condition("Reconciling") == "True/Refused", "it is told", seconds=60)
    assert world.stage.condition("Serving") == "True/Serving"
    assert world.stage.weights() == {"r1": 100}
    world.proxy.disarm()
    until(lambda: len(keys(world.stage)) == 1, "the right is there, and the key is made", seconds=90)
    world.stage.pending.clear()
    until(lambda: world.stage.weights().get("r2"), "it goes on", seconds=90)
