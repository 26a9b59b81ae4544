"""A Prometheus that lies, stutters or says nothing: no bad numbers promote anybody, none take a sound model back.

In each case the status says what is the matter. Played by the stage of `servingstage`; the operator is real.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from faults.crash import Run, run
from faults.lives import LIVES, Life, approve, nobody
from faults.world import World
from servingstage import install_routes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]
Rows = list[Json]
PROMOTED = LIVES["deployment-promoted"]
SECONDS = 12.0
"""So long the numbers are hidden; a sound candidate needs a third of it for its first step."""


@pytest.fixture(scope="module")
def runs(api, tmp_path_factory) -> Iterator[dict[str, Future[Run]]]:
    """All runs of this file, a few at the same time: each waits most of the time."""
    install_routes(api)
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(4) as pool:
        begun = {how: pool.submit(run, api, hidden(lie), folder) for how, lie in HIDING.items()}
        begun |= {how: pool.submit(run, api, life, folder) for how, life in SEEN.items()}
        yield begun


# What Prometheus makes of its rows


def valued(change: Callable[[str], str]) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, "values": [[at, change(v)] for at, v in row["values"]]} for row in rows]


def errors_valued(value: str) -> Callable[[Rows], Rows]:
    """Return what gives the candidate's errors this value, and leaves its requests as they are."""

    def change(rows: Rows) -> Rows:
        bad = [row for row in rows if "outcome" in row["metric"] and is_of("r2", row)]
        return [row for row in rows if row not in bad] + valued(lambda _: value)(bad)

    return change


def moved(seconds: float) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, "values": [[at + seconds, v] for at, v in row["values"]]} for row in rows]


def is_of(number: str, row: Json) -> bool:
    return f"-{number}-" in row["metric"]["pod"]


def relabelled(**labels: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, "metric": {**row["metric"], **labels}} for row in rows]


def of_one_pod(rows: Rows) -> Rows:
    """Leave out all but one of the candidate's pods."""
    pods = sorted({row["metric"]["pod"] for row in rows if is_of("r2", row)})
    return [row for row in rows if row["metric"]["pod"] not in pods[1:]]


@dataclass(frozen=True, kw_only=True)
class Lie:
    """What hides a candidate's numbers, and what the status says then."""

    begin: Callable[[World], object]
    says: str


def mangled(change: Callable[[Rows], Rows], says: str) -> Lie:
    return Lie(begin=lambda world: setattr(world.stage, "mangle", change), says=says)


def answering(reply: bytes, says: str) -> Lie:
    return Lie(begin=lambda world: setattr(world.stage, "reply", lambda _: reply), says=says)


def frozen(world: World) -> None:
    """Send, under new times, the same minute again and again: from before the candidate had requests."""
    kept: list[tuple[float, Rows]] = []

    def change(rows: Rows) -> Rows:
        if any(is_of("r2", row) for row in rows) and not kept:
            kept.append((time.time(), rows))
        return moved(time.time() - kept[0][0])(kept[0][1]) if kept else rows

    world.stage.mangle = change


def replayed(world: World) -> None:
    """Send what the candidate had counted long ago under new times, from the middle of its first step on."""
    began: list[float] = []

    def late(row: Json) -> Json:
        values = [[at, str(float(v) // 4) if at > began[0] + 2 else v] for at, v in row["values"]]
        return {**row, "values": values}

    def change(rows: Rows) -> Rows:
        if not began and world.stage.weights().get("r2"):
            began.append(time.time())
        return [late(row) if began and is_of("r2", row) else row for row in rows]

    world.stage.rate = 40.0
    world.stage.started_at = "2026-01-01T00:00:00Z"
    world.stage.mangle = change


def two_candidate_pods(world: World) -> None:
    world.stage.change(replicas=5)  # a quarter of the traffic needs two
    world.stage.mangle = of_one_pod


OTHERS = [{"metric": {"__name__": "luthier_requests_started_total", "pod": f"other-{i}"}} for i in range(400)]
LARGE = {"resultType": "matrix", "result": [{**o, "values": [[i, "1" * 40] for i in range(500)]} for o in OTHERS]}
REFUSED = {"status": "error", "errorType": "bad_data", "error": "query processing would load too many samples"}
UNSEEN, NO_NUMBERS = "no sample", "samples that are no numbers of requests"
HIDING = {
    "down": Lie(begin=lambda world: setattr(world.stage, "down", True), says="no JSON"),
    "slow": Lie(begin=lambda world: setattr(world.stage, "delay", 30.0), says="did not answer within 5 s"),
    "broken JSON": answering(b'{"status": "success", "data": {"resu', "no JSON"),
    "an error": answering(json.dumps(REFUSED).encode(), "would load too many samples"),
    "10 MB about others": answering(json.dumps({"status": "success", "data": LARGE}).encode(), UNSEEN),
    "empty": mangled(lambda _: [], UNSEEN),
    "not a number": mangled(valued(lambda _: "NaN"), NO_NUMBERS),
    "infinite": mangled(valued(lambda _: "+Inf"), NO_NUMBERS),
    "below zero": mangled(valued(lambda v: f"-{v}1"), NO_NUMBERS),
    "errors that are no numbers": mangled(errors_valued("NaN"), NO_NUMBERS),
    "errors below infinity": mangled(errors_valued("-Inf"), NO_NUMBERS),
    "requests without errors": mangled(
        lambda rows: [r for r in rows if "outcome" not in r["metric"]], "no sample of luthier_requests_total"
    ),
    "stale": mangled(moved(-60), "no fresh sample"),
    "from the future": mangled(moved(600), "samples from the future"),
    "the same minute again": Lie(begin=frozen, says="0 of 40 candidate requests"),
    "old samples under new times": Lie(begin=replayed, says="fewer requests than before, and no restart"),
    "of the stable's pods only": mangled(lambda rows: [r for r in rows if is_of("r1", r)], UNSEEN),
    "of one of two candidate pods": Lie(begin=two_candidate_pods, says="of 1 ready pod(s)"),
    "of another namespace": mangled(relabelled(namespace="elsewhere"), UNSEEN),
}


def hidden(lie: Lie) -> Life:
    """A sound candidate whose numbers are hidden for a while."""

    def begin(world: World) -> None:
        lie.begin(world)
        PROMOTED.begin(world)
        world.once("begun", lambda: None)

    def play(world: World) -> None:
        if lie.says in said(world):
            world.once("said", lambda: None)

    return Life(
        name=PROMOTED.name,
        before=PROMOTED.before,
        begin=begin,
        play=play,
        is_over=lambda world: time.monotonic() > world.notes["begun"] + SECONDS,
        state=lambda world: outcome(world) | {"told": "said" in world.notes, "said": said(world)},
    )


def said(world: World) -> str:
    return str([c["message"] for c in world.stage.status().get("conditions", []) if c["type"] == "Ready"]) + str(
        (world.stage.status().get("rollout") or {}).get("analysis", {}).get("message")
    )


def outcome(world: World) -> Json:
    status = world.stage.status()
    taken_back = [h["message"] for h in status["history"] if h["outcome"] != "Promoted"]
    return {"route": world.stage.weights(), "stable": world.stage.stable(), "taken back": taken_back}


@pytest.mark.row(44, 45, 46, 48)
@pytest.mark.parametrize("how", HIDING)
def test_hidden_numbers_promote_nobody_and_take_nobody_back(runs, how):
    done = runs[how].result()
    assert done.problems == ()
    assert done.state["taken back"] == []
    assert done.state["stable"] == "r1"
    assert done.state["route"].get("r2", 0) in (0, 25), "no step beyond the first weight"
    assert done.state["told"], done.state["said"]


# What does not hide the numbers, and must not change what they say


def twice(rows: Rows) -> Rows:
    """Add what another scraper, whose clock is ahead, has of the same pods."""
    return [*relabelled(prometheus="a")(rows), *relabelled(prometheus="b")(moved(2)(rows))]


def beside_others(rows: Rows) -> Rows:
    """Add failing pods of the same name elsewhere, and of another revision."""
    failing = valued(lambda v: str(10 * float(v) + 1000))
    elsewhere = relabelled(namespace="elsewhere", pod_uid="other")(failing(rows))
    return [*rows, *elsewhere, *failing([{**r, "metric": named_r3(r["metric"])} for r in rows])]


def named_r3(labels: Json) -> Json:
    return {**labels, "pod": labels["pod"].replace("-r2-", "-r3-").replace("-r1-", "-r3-"), "pod_uid": "third"}


def restarting(world: World) -> None:
    """Let each pod of the candidate begin to count from 0 again, in mid-step, twice."""
    if world.stage.weights().get("r2"):
        world.once("first", lambda: world.stage.reset("r2"))
    if "first" in world.notes and time.monotonic() > world.notes["first"] + 2:
        world.once("second", lambda: world.stage.reset("r2"))


def seen(play: Callable[[World], object], *, begin: Callable[[World], object] = nobody, bad: bool = False) -> Life:
    """A candidate whose numbers are there, in a strange form: a sound one is promoted, a bad one taken back."""
    life = LIVES["deployment-rolled-back" if bad else "deployment-promoted"]
    return Life(
        name=life.name,
        before=life.before,
        begin=lambda world: (begin(world), life.begin(world)),
        play=lambda world: (play(world), approve(world)),
        is_over=life.is_over,
        state=outcome,
        seconds=90,
    )


def with_rows(change: Callable[[Rows], Rows]) -> Callable[[World], object]:
    return lambda world: setattr(world.stage, "mangle", change)


SEEN = {
    f"{how}, {'bad' if bad else 'sound'}": seen(play, begin=begin, bad=bad)
    for how, play, begin in (
        ("scraped twice", nobody, with_rows(twice)),
        ("beside others", nobody, with_rows(beside_others)),
        ("counters that begin again", restarting, nobody),
    )
    for bad in (False, True)
}


@pytest.mark.row(51, 53)
@pytest.mark.parametrize("how", SEEN)
def test_strange_numbers_say_what_they_say(runs, how):
    done = runs[how].result()
    assert done.problems == ()
    assert done.state["route"] == ({"r1": 100} if how.endswith("bad") else {"r2": 100})
