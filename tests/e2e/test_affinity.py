"""A conversation stays on a revision while weights grow, as a real Envoy chooses; and a new one is as likely as says
the weight to begin on the candidate."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator

import aiohttp
import pytest

from servingnode.traffic import PATH, QUESTION, REVISION_HEADER
from servingnode.world import ServingNode
from standin.model import Behaviour
from waiting import until

pytestmark = [pytest.mark.node, pytest.mark.images, pytest.mark.slow]
MODELS = {"v1": Behaviour(), "v2": Behaviour(answer='{"label": "two"}')}
HEADER = "x-conversation-id"
CONVERSATIONS = [f"conversation-{number}" for number in range(400)]
ROLLOUT = {
    "affinity": {"header": HEADER},
    "analysis": {"intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]},
    "abortScaleDownDelaySeconds": 0,
    "watchAfterPromotionSeconds": 0,
}
PAUSED = [step for weight in (10, 50) for step in ({"setWeight": weight}, {"pause": {}})]


@pytest.fixture
def world(serving_node) -> Iterator[ServingNode]:
    """A namespace of its own, in which the first model serves."""
    env, image = serving_node
    world = ServingNode(env=env, namespace="affinity", image=image)
    world.prepare(MODELS)
    try:
        world.deploy("v1", replicas=2, rollout=ROLLOUT)
        until(lambda: world.has_ended(1, "Promoted"), "the first revision serves", seconds=180)
        until(lambda: set(ask(world, CONVERSATIONS[:3]).values()) == {"r1"}, "the gateway answers", seconds=60)
        yield world
    finally:
        world.clear()


def ask(world: ServingNode, conversations: list[str]) -> dict[str, str]:
    """Ask once in each conversation, and return which revision answered."""
    return asyncio.run(_ask(world.address(), conversations))


async def _ask(url: str, conversations: list[str]) -> dict[str, str]:
    body = {"model": "support", "messages": QUESTION, "max_tokens": 4}
    found = {}
    connector = aiohttp.TCPConnector(limit=8)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def one(name: str) -> None:
            async with session.post(url + PATH, json=body, headers={HEADER: name}) as reply:
                found[name] = reply.headers.get(REVISION_HEADER, str(reply.status)).partition("-")[0]

        await asyncio.gather(*map(one, conversations))
    return found


def go_on(world: ServingNode, step: int) -> None:
    name = world.status()["candidate"]["name"]
    patch = {"spec": {"rollout": {"approve": {"revision": name, "step": step}}}}
    world.kubectl("patch", "mdep", "support", "--type=merge", "-p", json.dumps(patch))


def is_split(found: dict[str, str], percent: int) -> bool:
    """Say whether the realised split is the weight, within four standard deviations."""
    expected = len(found) * percent / 100
    mine = sum(revision == "r2" for revision in found.values())
    return abs(mine - expected) <= 4 * math.sqrt(expected * (1 - percent / 100))


def test_a_conversation_stays_on_the_candidate_while_its_weight_grows(world: ServingNode):
    world.deploy("v2", rollout={**ROLLOUT, "steps": PAUSED})
    until(lambda: world.weight() == 10, "a tenth", seconds=180)
    until(lambda: "r2" in ask(world, CONVERSATIONS[:100]).values(), "the gateway has the weight", seconds=60)
    tenth = ask(world, CONVERSATIONS)
    assert ask(world, CONVERSATIONS) == tenth
    assert is_split(tenth, 10)
    go_on(world, 2)
    until(lambda: world.weight() == 50, "a half", seconds=120)
    until(lambda: is_split(ask(world, CONVERSATIONS), 50), "the gateway has the weight", seconds=60)
    half = ask(world, CONVERSATIONS)
    assert ask(world, CONVERSATIONS) == half
    assert {name for name in tenth if tenth[name] == "r2"} <= {name for name in half if half[name] == "r2"}
    policy = world.items("backendtrafficpolicies.gateway.envoyproxy.io")[0]
    accepted = policy["status"]["ancestors"][0]["conditions"]
    assert {c["type"]: c["status"] for c in accepted}["Accepted"] == "True"
    go_on(world, 4)
    until(lambda: world.has_ended(2, "Promoted"), "the second revision serves", seconds=120)
    assert set(ask(world, CONVERSATIONS).values()) == {"r2"}
