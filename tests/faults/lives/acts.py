"""The lives in which people decide: a pin to an older revision, its removal, a promotion without analysis."""

from __future__ import annotations

from dataclasses import replace

from faults.lives.deployment import AT_FIRST_WEIGHT, QUICKLY, approve, candidate, ended, is_paused, rollout
from faults.lives.life import Stretch, nobody
from faults.lives.serving import FIRST
from faults.world import World


def ask_for_the_second(world: World) -> None:
    world.stage.rate = QUICKLY
    world.stage.successor()


def pin_first(world: World) -> None:
    """Serve r1 again: by its whole name, which the records know."""
    names = [r["data"]["name"] for r in world.stage.list("controllerrevisions")]
    pin = {"revision": next(n for n in names if n.startswith("r1-")), "by": "alice", "reason": "r2 is rude"}
    world.once("pin", lambda: world.stage.change(rollout={"pin": pin}))


def unpin(world: World) -> None:
    world.stage.rate = QUICKLY
    world.once("unpin", lambda: world.stage.change(rollout={"pin": None}))


def approve_again(world: World) -> None:
    """Approve the third revision's pause: the second's was another one."""
    if is_paused(world) and candidate(world).startswith("r3-"):
        named = {"revision": candidate(world), "step": 4}
        world.once("approve-again", lambda: world.stage.change(rollout={"approve": named}))


def promote(world: World) -> None:
    """Send the second revision on; nobody asks it anything, so no analysis would ever end."""
    act = {"revision": candidate(world), "skipAnalysis": True, "by": "alice", "reason": "the stable leaks"}
    world.once("promote", lambda: world.stage.change(rollout={"promote": act}))


SECOND = Stretch(begin=ask_for_the_second, play=approve, is_there=ended("True/Promoted", {"r2": 100}))
PINNED_STATE = ended("False/Pinned", {"r1": 100})
PINNED = Stretch(begin=pin_first, play=nobody, is_there=PINNED_STATE)
ACTS = [
    replace(
        rollout("deployment-pinned", "False/Pinned", {"r1": 100}, before=(FIRST, SECOND), begin=pin_first),
        may_return=frozenset({"r1"}),
    ),
    rollout("deployment-pinned-in-a-rollout", "False/Pinned", {"r1": 100}, before=AT_FIRST_WEIGHT, begin=pin_first),
    replace(
        rollout(
            "deployment-unpinned",
            "True/Promoted",
            {"r3": 100},
            before=(FIRST, SECOND, PINNED),
            begin=unpin,
            play=approve_again,
        ),
        may_return=frozenset({"r1"}),
    ),
    rollout(
        "deployment-promoted-without-analysis",
        "True/Promoted",
        {"r2": 100},
        before=AT_FIRST_WEIGHT,
        begin=promote,
        judged={100: 0},
    ),
]
