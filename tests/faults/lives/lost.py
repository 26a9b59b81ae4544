"""The lives in which a person wipes the status at a write: restored from a backup, or emptied by hand.

What was judged stands on the route and on the children as well: the end is the same, but for history, which is gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from faults.lives.deployment import RETURNED, begin_broken, break_it, rollout
from faults.lives.life import Act, Life, Stretch, nobody
from faults.lives.serving import FIRST, serving_state
from faults.lives.watch import IN_PLACE, JUDGED, STEPS
from faults.world import World

Json = dict[str, Any]


def wipe(world: World) -> None:
    """Take the status away, all of it."""
    world.stage.patch("modeldeployments", "support", {"status": None}, status=True)


def without_history(world: World) -> Json:
    """Return the end without what no child remembers."""
    return {name: value for name, value in serving_state(world).items() if name != "history"}


def ask(**rollout_: Any) -> Act:
    """Return an act that asks for a second model, judged once and not watched."""

    def begin(world: World) -> None:
        world.stage.change(replicas=2, rollout={"steps": STEPS, "watchAfterPromotionSeconds": 0, **rollout_})
        world.stage.successor()

    return begin


def is_large(world: World) -> bool:
    """Say whether both pods of the first revision are ready, and it serves."""
    return world.stage.condition("Ready") == "True/Initial" and world.stage.status()["stable"]["readyReplicas"] == 2


def enlarge(world: World) -> None:
    world.stage.change(replicas=2)


LARGE = (FIRST, Stretch(begin=enlarge, play=nobody, is_there=is_large))


def lost(life: Life, *, replicas: int = 1) -> Life:
    """Return a life with its status wiped at each write; it begins its rollout anew as often as that comes.

    Wiped when the second revision has all traffic and is not promoted yet, the first one gets its share back.
    """
    return replace(
        life,
        hand=wipe,
        state=without_history,
        forgets=True,
        replicas=replicas,
        may_return=frozenset({"r1", "r2"}),
    )


PROMOTED: tuple[str, dict[str, int]] = ("True/Promoted", {"r2": 100})
LOST = [
    lost(
        rollout("deployment-lost-in-place", *PROMOTED, before=LARGE, begin=ask(capacity="InPlace"), judged=JUDGED),
        replicas=2,
    ),
    lost(
        rollout("deployment-lost-worse-in-place", *RETURNED, before=IN_PLACE, begin=break_it, judged=JUDGED), replicas=2
    ),
    lost(rollout("deployment-lost", *PROMOTED, before=LARGE, begin=ask(), judged=JUDGED), replicas=2),
    lost(rollout("deployment-lost-rolled-back", *RETURNED, begin=begin_broken)),
]
