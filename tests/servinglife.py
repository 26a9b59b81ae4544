"""Where most lives of a ModelDeployment begin: its first revision serves."""

from __future__ import annotations

from servingworld import World

STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def serving(**rollout) -> World:
    """Return a world whose first revision serves all traffic."""
    names = {metric["name"] for metric in rollout.get("analysis", ANALYSIS).get("metrics", [])}
    world = World(rate=20, with_edges=bool(names & {"Latency", "LatencyCeiling"}))
    analysis = {**ANALYSIS, **rollout.pop("analysis", {})}
    world.spec(rollout={"steps": STEPS, "abortScaleDownDelaySeconds": 60, "analysis": analysis, **rollout})
    world.settle()
    assert world.condition("Ready") == "True/Initial"
    world.run(20)
    return world


def entry(world: World) -> dict:
    return world.status["history"][0]
