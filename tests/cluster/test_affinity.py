"""Conversations on one revision, on a real API server: refused where the gateway cannot, asked of the one that can."""

from __future__ import annotations

from typing import Any

import pytest

from servingstage import Stage
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
AFFINITY = {"header": "x-conversation-id", "requestsPerConversation": 2}


def policies(stage: Stage) -> list[dict[str, Any]]:
    return stage.list("backendtrafficpolicies")


def test_another_gateway_is_refused_before_any_pod_of_the_candidate(serving: Stage):
    serving.open_gateway("example.com/other")
    serving.change(rollout={"affinity": AFFINITY})
    serving.successor()
    until(lambda: serving.condition("Stalled") == "True/AffinityUnsupported", "it is refused")
    assert serving.condition("Serving") == "True/Serving"
    assert not serving.pods_of("r2")
    assert not policies(serving)
    serving.change(rollout={"affinity": None})
    until(lambda: serving.weights().get("r2"), "without it, r2 has traffic", seconds=60)


def test_envoy_gateway_is_told_and_has_to_agree_before_any_weight(serving: Stage):
    serving.open_gateway()
    serving.takes_policies = False
    serving.change(rollout={"affinity": AFFINITY})
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/AffinityNotInForce", "the policy is not taken yet")
    [policy] = policies(serving)
    assert policy["spec"]["loadBalancer"]["consistentHash"]["headers"] == [{"name": "x-conversation-id"}]
    assert serving.weights() == {"r1": 100}
    serving.takes_policies = True
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "the pause is reached", seconds=90)
    assert serving.weights() == {"r1": 50, "r2": 50}
    name = serving.status()["candidate"]["name"]
    serving.change(rollout={"affinity": None, "approve": {"revision": name, "step": 4}})
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
    until(lambda: not policies(serving), "the policy is gone")
