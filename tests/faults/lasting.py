"""Faults that last: a life is disturbed for minutes, and what is asked for afterwards must still be answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from factories import make_finetunejob
from faults.crash import Run, run
from faults.lives import Life
from faults.world import World


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """How a disturbed life went: its end, and the world that it was lived in, whose processes are gone by now."""

    done: Run
    world: World

    def seconds(self, since: str, until: str) -> float:
        """Return how much later one thing was noted than another."""
        return float(self.world.notes[until] - self.world.notes[since])


def live(api: httpx.Client, life: Life, folder: Path, disturb: Callable[[World], None]) -> Lasting:
    """Run a disturbed life, and keep what was noted in it."""
    worlds: list[World] = []

    def noting(world: World) -> None:
        worlds[:] = [world]
        disturb(world)

    done = run(api, life, folder, disturb=noting)
    return Lasting(done=done, world=worlds[0])


def asked_afterwards(life: Life, *, seconds: float) -> Life:
    """Return a life that is over only when the fault is (`back` is noted) and a new object was answered after it."""

    def ask(world: World) -> None:
        if "back" in world.notes:
            world.once("asked", lambda: world.place.make("finetunejobs", make_finetunejob("other")))

    def is_over(world: World) -> bool:
        if "asked" not in world.notes or "other-data-1" not in world.place.job_names():
            return False
        world.once("answered", lambda: None)
        return life.is_over(world)

    return replace(life, play=lambda world: (life.play(world), ask(world))[1], is_over=is_over, seconds=seconds)


def lasting(
    is_time: Callable[[World], object],
    begin: Callable[[World], None],
    end: Callable[[World], None],
    *,
    seconds: float,
) -> Callable[[World], None]:
    """Return a disturbance that begins when it is time, and ends so many seconds later."""

    def disturb(world: World) -> None:
        if "gone" not in world.notes and is_time(world):
            world.once("gone", lambda: begin(world))
        if "gone" in world.notes and time.monotonic() > world.notes["gone"] + seconds:
            world.once("back", lambda: end(world))

    return disturb
