"""The lives of rollouts that others hold or hear of: a freeze, a window, receivers that are asked and told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from faults.lives.deployment import AT_FIRST_WEIGHT, QUICKLY, RETURNED, approve, break_it, ended, rollout
from faults.lives.life import Act, Life, nobody
from faults.lives.serving import FIRST, serving_state
from faults.lives.watch import JUDGED, STEPS
from faults.world import World
from hookreceiver import HANG

Json = dict[str, Any]
FREEZE = "luthier-freeze"


# A freeze and a window, over a rollout that has its first share


def freeze(world: World) -> None:
    body = {"metadata": {"name": FREEZE}, "data": {"reason": "launch day"}}
    world.once("freeze", lambda: world.place.create("configmaps", body))


def thaw(world: World) -> None:
    """Lift the freeze when it is seen, and approve; before that nobody asks anything, so nothing moves."""
    if world.stage.condition("Ready") == "False/Frozen":
        world.once("thaw", lambda: world.place.delete("configmaps", FREEZE))
    if "thaw" in world.notes:
        world.stage.rate = QUICKLY
        approve(world)


def close_window(world: World) -> None:
    """Let rollouts go in a minute that is half a year away."""
    month = (time.gmtime().tm_mon + 5) % 12 + 1
    windows = [{"schedule": f"0 0 1 {month} *", "durationSeconds": 60}]
    world.once("close", lambda: world.stage.change(rollout={"windows": windows}))


def open_window(world: World) -> None:
    """Let them go at any time, once it is seen that they rest."""
    windows = [{"schedule": "* * * * *", "durationSeconds": 120}]
    if world.stage.condition("Ready") == "False/OutsideWindow":
        world.once("open", lambda: world.stage.change(rollout={"windows": windows}))
    if "open" in world.notes:
        world.stage.rate = QUICKLY
        approve(world)


def break_when_frozen(world: World) -> None:
    """Let the second revision get worse while all rollouts are frozen: none is kept from going back."""
    if world.stage.condition("Ready") == "False/Frozen":
        world.stage.rate = QUICKLY
        world.once("break", lambda: break_it(world))


# Receivers


def ask(world: World) -> None:
    """Ask for a second model, with somebody who is asked and two who are told."""
    hooks = [{"name": type_.lower(), "type": type_, "url": world.hooks.url(type_.lower())} for type_ in HEARD]
    world.stage.change(rollout={"steps": STEPS, "watchAfterPromotionSeconds": 0, "hooks": hooks})
    world.stage.successor()


HEARD = ("Confirm", "Event", "Rollback")


def ask_for_worse(world: World) -> None:
    """The same, for one that gets worse; who is told hangs until all traffic is back."""

    def answer(body: Json) -> int:
        is_back = world.stage.condition("Ready") == "False/RolledBack"
        return 204 if body["type"] == "Confirm" or is_back else HANG

    world.hooks.answer = answer
    break_it(world)
    ask(world)


def heard(world: World) -> Json:
    """Return the end, and what was told to whom: each thing by one id, and its body the same at each try."""
    calls: dict[str, Json] = {}
    for one in tuple(world.hooks.heard):
        assert one.is_signed, one
        assert calls.setdefault(one.id, one.about) == one.about, one
    told = [f"{type_}/{call.body['event']}" for type_ in HEARD for call in world.hooks.taken(type_).values()]
    return {**serving_state(world), "told": sorted(told)}


def with_hooks(name: str, end: str, weights: dict[str, int], *, begin: Act) -> Life:
    """Return a life that is over when everything was told as well."""
    is_there = ended(end, weights)

    def is_over(world: World) -> bool:
        return is_there(world) and not world.stage.status().get("notices")

    life = rollout(name, end, weights, before=(FIRST,), begin=begin, play=nobody, judged=JUDGED)
    return replace(life, is_over=is_over, state=heard, has_hooks=True)


HELD = [
    rollout(
        "deployment-frozen-and-thawed", "True/Promoted", {"r2": 100}, before=AT_FIRST_WEIGHT, begin=freeze, play=thaw
    ),
    rollout(
        "deployment-worse-while-frozen",
        *RETURNED,
        before=AT_FIRST_WEIGHT,
        begin=freeze,
        play=break_when_frozen,
    ),
    rollout(
        "deployment-outside-its-window",
        "True/Promoted",
        {"r2": 100},
        before=AT_FIRST_WEIGHT,
        begin=close_window,
        play=open_window,
    ),
    with_hooks("deployment-confirmed-and-told", "True/Promoted", {"r2": 100}, begin=ask),
    with_hooks("deployment-worse-and-told", *RETURNED, begin=ask_for_worse),
]
