"""The lives of a revision that has passed its steps and is watched, that loses pods, or that goes back pod by pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from faults.lives.deployment import PAUSED, RETURNED, approve, break_it, rollout
from faults.lives.life import Act, Stretch
from faults.lives.serving import FIRST, MIN_SAMPLES
from faults.world import World

STEPS = [{"setWeight": 50}, {"analysis": {}}]
JUDGED = {50: MIN_SAMPLES}
HOUR = 3600


def is_watched(world: World) -> bool:
    return world.stage.condition("Reconciling") == "True/Watching"


def ask(seconds: int, **rollout_: Any) -> Act:
    """Return an act that asks for a second model, with a watch of so many seconds."""

    def begin(world: World) -> None:
        world.stage.change(rollout={"steps": STEPS, "watchAfterPromotionSeconds": seconds, **rollout_})
        world.stage.successor()

    return begin


def in_place(world: World) -> None:
    world.stage.change(replicas=2)
    ask(HOUR, capacity="InPlace")(world)


def is_watched_in_place(world: World) -> bool:
    return is_watched(world) and len(world.stage.list("pods")) == 3


def ask_for_a_third(world: World) -> None:
    """Ask for another model, which is not watched: the end of the life is the end of its rollout."""
    world.stage.change(rollout={"watchAfterPromotionSeconds": 0})
    world.stage.successor(3)


def evict(world: World) -> None:
    """Take the second revision's pod away, and leave no place for another one."""
    world.stage.pending.add("r2")
    world.stage.evict("r2")


def find_a_place(world: World) -> None:
    """Let the next pod start when the loss is seen, and approve the pause again."""
    if world.stage.condition("Ready") == "False/Interrupted":
        world.once("placed", world.stage.pending.clear)
    if "placed" in world.notes:
        approve(world)


WATCHED = (FIRST, Stretch(begin=ask(HOUR), play=lambda _: None, is_there=is_watched))
ALONE = (FIRST, Stretch(begin=ask(HOUR, watchWeight=0), play=lambda _: None, is_there=is_watched))
IN_PLACE = (FIRST, Stretch(begin=in_place, play=lambda _: None, is_there=is_watched_in_place))
WATCH = [
    rollout("deployment-watched-and-promoted", "True/Promoted", {"r2": 100}, begin=ask(2), judged=JUDGED),
    rollout("deployment-worse-in-the-watch", *RETURNED, before=WATCHED, begin=break_it, judged=JUDGED),
    replace(
        rollout("deployment-worse-without-a-share", *RETURNED, before=ALONE, begin=break_it, judged=JUDGED),
        may_return=frozenset({"r1"}),  # it has a trace in the watch, which is no percent
    ),
    rollout("deployment-worse-in-place", *RETURNED, before=IN_PLACE, begin=break_it, judged=JUDGED),
    rollout(
        "deployment-superseded-in-the-watch",
        "True/Promoted",
        {"r3": 100},
        before=WATCHED,
        begin=ask_for_a_third,
        judged=JUDGED,
    ),
    replace(
        rollout("deployment-interrupted", "True/Promoted", {"r2": 100}, before=PAUSED, begin=evict, play=find_a_place),
        may_return=frozenset({"r2"}),
    ),
]
