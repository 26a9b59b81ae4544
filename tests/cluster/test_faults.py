"""The operator behind the fault proxy, on a real API server: whatever breaks, the end is the undisturbed one.

All crash points: `make faults`. Here a seeded sample of them, and the faults that are no crash.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from faults.crash import Run, compare, enumerate_crashes, run
from faults.lives import LIVES
from faults.rules import Rule
from faults.world import World
from servingstage import install_routes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ROLLBACK, TRAINING = LIVES["deployment-rolled-back"], LIVES["finetune-success"]


@pytest.fixture(scope="module")
def runs(api, tmp_path_factory) -> Iterator[dict[tuple[str, str], Future[Run]]]:
    """All runs of this file but the long ones, a few at the same time: each waits most of the time."""
    install_routes(api)
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(4) as pool:
        begun = {(life.name, ""): pool.submit(run, api, life, folder) for life in (ROLLBACK, TRAINING)}
        for fault, rules in FAULTS.items():
            begun |= {(li.name, fault): pool.submit(run, api, li, folder, *rules) for li in (ROLLBACK, TRAINING)}
        yield begun


def ended_as_undisturbed(runs, done: Run) -> list[str]:
    return compare(runs[done.life, ""].result(), done)


@pytest.mark.row(1, 2, 55)
def test_a_sample_of_all_crash_points_ends_as_undisturbed(api, tmp_path):
    install_routes(api)
    score = enumerate_crashes(api, tmp_path, sample=24, seed=7)
    assert score.wrong == []
    assert score.points >= 18


WRITE_FAULTS = {
    "a conflict on each third write": [Rule(act="status", write=n, status=409) for n in range(1, 30, 3)],
    "throttled, to come back after a second": [
        Rule(act="status", method="PUT|PATCH", status=429, retry_after=1, times=3)
    ],
    "a burst of errors": [Rule(act="status", method="POST|PUT|PATCH|DELETE", status=code) for code in (500, 503, 504)],
    "replies that are lost after the write was stored": [Rule(act="cut-reply", write=n) for n in range(2, 30, 4)],
    "replies that end in the middle": [Rule(act="truncate", write=n) for n in range(1, 30, 4)],
    "connections cut before anything is sent": [Rule(act="drop", write=n) for n in range(3, 30, 4)],
    "lists that fail": [Rule(act="status", method="GET", path=".*/(jobs|pods|httproutes)", status=500, times=6)],
}
WATCH_FAULTS = {
    "watches that end with 410": [Rule(act="watch-error", status=410, times=12)],
    "watches that end with 429, 500 and 503": [
        Rule(act="watch-error", status=code, times=6) for code in (429, 500, 503)
    ],
    "watches cut in the middle of a line": [Rule(act="watch-cut", times=20)],
    "events that come twice, the older one last": [Rule(act="watch-twice", times=0)],
}


FAULTS = WRITE_FAULTS | WATCH_FAULTS


@pytest.mark.parametrize("life", [ROLLBACK, TRAINING], ids=lambda life: life.name)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("a conflict on each third write", marks=pytest.mark.row(13)),
        pytest.param("throttled, to come back after a second", marks=pytest.mark.row(14)),
        pytest.param("a burst of errors", marks=pytest.mark.row(15)),
        pytest.param("replies that are lost after the write was stored", marks=pytest.mark.row(15)),
        pytest.param("replies that end in the middle", marks=pytest.mark.row(15)),
        pytest.param("connections cut before anything is sent", marks=pytest.mark.row(15)),
        pytest.param("lists that fail", marks=pytest.mark.row(15)),
        pytest.param("watches that end with 410", marks=pytest.mark.row(17)),
        pytest.param("watches that end with 429, 500 and 503", marks=pytest.mark.row(18)),
        pytest.param("watches cut in the middle of a line", marks=pytest.mark.row(21)),
        pytest.param("events that come twice, the older one last", marks=pytest.mark.row(21)),
    ],
)
def test_it_lives_through(runs, life, fault):
    done = runs[life.name, fault].result()
    assert ended_as_undisturbed(runs, done) == []
    assert done.starts == 1, "it did not die of it"
    assert done.fired


@pytest.mark.row(15)
def test_an_api_server_that_is_gone_for_twenty_seconds(api, runs, tmp_path):
    def disturb(world: World) -> None:
        if world.stage.weights().get("r2"):
            world.once("gone", lambda: world.proxy.outage(True))
        if "gone" in world.notes and time.monotonic() > world.notes["gone"] + 20:
            world.once("back", lambda: world.proxy.outage(False))

    done = run(api, ROLLBACK, tmp_path, disturb=disturb)
    assert ended_as_undisturbed(runs, done) == []
    assert done.starts == 1
    assert done.seconds > 20


def test_a_process_that_stands_still_for_ten_seconds(api, runs, tmp_path):
    def disturb(world: World) -> None:
        if world.stage.weights().get("r2"):
            world.once("stopped", lambda: world.operator.signal(signal.SIGSTOP))
        if "stopped" in world.notes and time.monotonic() > world.notes["stopped"] + 10:
            world.once("continued", lambda: world.operator.signal(signal.SIGCONT))

    done = run(api, ROLLBACK, tmp_path, disturb=disturb)
    assert ended_as_undisturbed(runs, done) == []
    assert done.starts == 1
