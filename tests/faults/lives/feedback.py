"""The life in which an object begins to take votes: its key is made once, whenever the operator is killed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from faults.lives.deployment import approve, rollout
from faults.lives.serving import serving_state
from faults.world import World

Json = dict[str, Any]
KEY = "key"


def ask_for_votes(world: World) -> None:
    world.stage.pending.add("r2")  # a kubelet starts no pod whose Secret is missing
    world.stage.change(feedback={})


def watch_the_key(world: World) -> None:
    """Remember the first key that was there, and approve the pause."""
    if keys := _keys(world):
        world.notes.setdefault(KEY, keys[0])
        world.stage.pending.discard("r2")
    approve(world)


def _keys(world: World) -> list[str]:
    return [s["data"]["key"] for s in world.stage.list("secrets") if s["type"] == "luthier.dev/feedback-key"]


def state(world: World) -> Json:
    """Say what any such object ends as, and whether its key is still the first one."""
    return {**serving_state(world), "keys": len(_keys(world)), "is first": _keys(world) == [world.notes.get(KEY)]}


FEEDBACK = [
    replace(
        rollout("deployment-with-votes", "True/Promoted", {"r2": 100}, begin=ask_for_votes, play=watch_the_key),
        state=state,
    )
]
