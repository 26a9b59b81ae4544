"""Crash enumeration: a life is run once undisturbed, then once for each write that the operator made in it and for
each side of that write; every end must be the undisturbed one.

The oracles: the same end state, children included (O1, O2); no traceback; at most twice the writes (O6); a revision
that was taken back never gets traffic again (O8); no verdict differs from the undisturbed run's, and none that was
written changes (O9, `verdicts`); no step onward on fewer requests than it asks for since its weight came into force
(O10); who gains traffic stands in status before (`order`), and has the pods for it.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from faults.lives import LIVES, Life
from faults.order import order_violations
from faults.rules import Act, Rule
from faults.verdicts import verdict_violations
from faults.world import World, open_world

Json = dict[str, Any]
QUIET_SECONDS = 2.5
"""So long without a write, the operator acting all the time: it has nothing more to do. The router rests for 1 s."""
_EXTRA_WRITES = 12
"""Beyond twice the undisturbed run's: what a rollout's numbers, written each few seconds, may add."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one run went."""

    life: str
    rule: Rule | None
    state: Json
    writes: tuple[str, ...]
    fired: bool
    starts: int
    seconds: float
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place to crash at."""

    life: str
    rule: Rule
    what: str
    """The undisturbed run's write of that number."""


def run(
    api: httpx.Client, life: Life, folder: Path, *rules: Rule, disturb: Callable[[World], None] = lambda _: None
) -> Run:
    """Live a life under rules; the operator is started again whenever it is dead. `disturb` is called all the time."""
    began = time.monotonic()
    namespace = f"f-{uuid.uuid4().hex[:8]}"
    problems: list[str] = []
    with open_world(api, namespace, folder, has_hooks=life.has_hooks, **life.settings) as world:
        world.operator.start()
        problems += _lead(world, life)
        routes, status = world.stage.newest_routes(), world.stage.status()
        written = len(world.stage.shares)
        if life.hand is not None:
            world.proxy.hand = partial(life.hand, world)
        world.proxy.arm(*(rule for rule in rules if rule.act != "asleep"))
        is_asleep = any(rule.act == "asleep" for rule in rules)
        if is_asleep:
            world.operator.stop()
        life.begin(world)
        if not _drive(world, lambda world: (life.play(world), disturb(world)), life.is_over, life.seconds):
            problems.append(f"not over after {life.seconds:.0f} s")
        _settle(world, life)
        if not problems and not life.is_over(world):
            problems.append("it was over, and then it was not")
        state = life.state(world)
        problems += [*_in_log(world), *world.stage.violations(life.judged, may_return=life.may_return)]
        problems += order_violations(world.proxy.writes, routes=routes, status=status)
        problems += verdict_violations(world.proxy.writes, may_forget=life.forgets)
        problems += world.stage.overloads(life.replicas, since=written) if life.replicas else ()
        writes = tuple(f"{write.method} {_shown(write.path)}" for write in world.proxy.writes)
        done = Run(
            life=life.name,
            rule=rules[0] if rules else None,
            state=state,
            writes=writes,
            fired=is_asleep or bool(world.proxy.fired),
            starts=world.operator.starts,
            seconds=time.monotonic() - began,
            problems=tuple(problems),
        )
    return done


def _lead(world: World, life: Life) -> Iterator[str]:
    """Bring the world, undisturbed, to where the life begins, and let the operator finish what it writes."""
    for stretch in life.before:
        stretch.begin(world)
        if not _drive(world, stretch.play, stretch.is_there, stretch.seconds):
            yield f"it did not get to its beginning within {stretch.seconds:.0f} s"
    if life.before and not life.before[-1].is_quiet:
        return
    count, deadline = -1, time.monotonic() + 5
    while len(world.proxy.writes) != count and time.monotonic() < deadline:
        count = len(world.proxy.writes)
        time.sleep(0.3)


def _drive(world: World, play: Callable[[World], object], is_over: Callable[[World], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not world.operator.is_alive():
            world.operator.start()
        play(world)
        if is_over(world):
            return True
        time.sleep(0.1)
    return False


def _settle(world: World, life: Life) -> None:
    """Wait until nothing more is written by an operator that acts: one that has just been started only reads."""
    deadline, last, since = time.monotonic() + 30, -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < QUIET_SECONDS:
        if not world.operator.is_alive():
            world.operator.start()
        life.play(world)
        if len(world.proxy.writes) != last or not world.operator.is_acting():
            last, since = len(world.proxy.writes), time.monotonic()
        time.sleep(0.1)


def _in_log(world: World) -> Iterator[str]:
    text = world.log()
    if "Traceback" in text:
        yield f"a traceback in {world.operator.log}"


def _shown(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[parts.index("namespaces") + 2 :]) if "namespaces" in parts else path


def compare(undisturbed: Run, crashed: Run) -> list[str]:
    """Return what differs from the undisturbed run."""
    problems = list(crashed.problems)
    for key in sorted({*undisturbed.state, *crashed.state}):
        was, is_ = undisturbed.state.get(key), crashed.state.get(key)
        if was != is_:
            problems.append(f"{key}: {is_!r} instead of {was!r}")
    limit = 2 * len(undisturbed.writes) + _EXTRA_WRITES
    if len(crashed.writes) > limit:
        problems.append(f"{len(crashed.writes)} writes, undisturbed {len(undisturbed.writes)}")
    return problems


def points_of(undisturbed: Run) -> list[Point]:
    """Return both sides of every write; where little is written, the beginning itself; where a person acts, when."""
    life = LIVES[undisturbed.life]
    acts: tuple[Act, ...] = ("hand-before", "hand-after") if life.hand else ("kill-before", "kill-after")
    beginning = [Point(life=life.name, rule=Rule(act="asleep"), what="its beginning")] if life.is_short else []
    return beginning + [
        Point(life=life.name, rule=Rule(act=act, write=number), what=what)
        for number, what in enumerate(undisturbed.writes, start=1)
        for act in acts
    ]


@dataclass(kw_only=True)
class Score:
    """What an enumeration found."""

    points: int = 0
    unreached: int = 0
    """The disturbed run made fewer writes than the undisturbed one."""
    wrong: list[str] = field(default_factory=list)
    by_life: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def enumerate_crashes(
    api: httpx.Client,
    folder: Path,
    *,
    lives: Iterable[str] = tuple(LIVES),
    workers: int = 4,
    sample: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> Score:
    """Crash at every write of every life, or at a seeded sample of them."""
    score, began = Score(), time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        names = list(lives)
        calm = dict(zip(names, pool.map(lambda name: run(api, LIVES[name], folder), names), strict=True))
        for name, undisturbed in calm.items():
            tell(f"{name}: {len(undisturbed.writes)} writes in {undisturbed.seconds:.0f} s, undisturbed")
            for problem in undisturbed.problems:
                score.wrong.append(f"{name}, undisturbed: {problem}")
                tell(f"WRONG {score.wrong[-1]}")
        points = [point for undisturbed in calm.values() for point in points_of(undisturbed)]
        if sample is not None:
            points = random.Random(seed).sample(points, min(sample, len(points)))
        crashed = pool.map(lambda point: run(api, LIVES[point.life], folder, point.rule), points)
        for point, done in zip(points, crashed, strict=True):
            _count(score, point, calm[point.life], done, tell)
    score.seconds = time.monotonic() - began
    return score


def _count(score: Score, point: Point, undisturbed: Run, done: Run, tell: Callable[[str], None]) -> None:
    if not done.fired:
        score.unreached += 1
        return
    score.points += 1
    score.by_life[point.life] = score.by_life.get(point.life, 0) + 1
    problems = compare(undisturbed, done)
    if problems:
        escaped = point.rule.dump().replace('"', r"\"")
        again = f"make faults ARGS=\"--life {point.life} --rule '{escaped}'\""
        text = (
            f"{point.life}, {point.rule.act} write {point.rule.write} ({point.what}): {'; '.join(problems)}\n  {again}"
        )
        score.wrong.append(text)
        tell(f"WRONG {text}")
    elif score.points % 20 == 0:
        tell(f"{score.points} crash points, {len(score.wrong)} wrong")
