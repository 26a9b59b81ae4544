"""Faults that last for minutes, on a real API server: the process lives, and the end is the undisturbed one.

All of them at the same time: each waits for most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from factories import make_finetunejob
from faults.crash import Run, compare, run
from faults.lasting import Lasting, asked_afterwards, lasting, live
from faults.lives import LIVES, NAN, PREPARED, TRAINED, Ending, Life, finetune, job_status, rollout
from faults.rules import Rule
from faults.settled import free_port
from faults.world import World, open_world
from jobworld import summary
from luthier.health import DEAD_SECONDS
from servingstage import install_routes
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.flood]
PROMOTED, ROLLBACK = LIVES["deployment-promoted"], LIVES["deployment-rolled-back"]
OUTAGE_SECONDS, LISTS_SECONDS, KOPF_SECONDS = 300.0, 150.0, 75.0
SILENT_SECONDS, SLACK_SECONDS = 70, 20
"""What `kube.SILENCE_SECONDS` promises, and what a busy machine may add."""
TYPES = "finetunejobs|evaluations|modeldeployments|jobs|pods|deployments|services|httproutes|controllerrevisions"
NO_LISTS = Rule(act="status", method="GET", path=f".*/({TYPES})", status=500, times=0)
NO_OWN_WATCHES = Rule(act="watch-error", path="/apis/luthier.dev/.*", status=500, times=0)
SILENCE = Rule(act="watch-silence", times=0, seconds=600)
JUMPS = {"ten minutes forward": 600.0, "ten minutes back": -600.0}


def has_traffic(world: World) -> bool:
    return bool(world.stage.weights().get("r2"))


# The faults


def gone(world: World) -> None:
    """Take the API server away for five minutes, and ask for the operator's health before it is back."""
    lasting(
        has_traffic,
        lambda world: world.proxy.outage(True),
        lambda world: (
            world.notes.update(health=healthz(world.notes["port"]).text),
            world.proxy.outage(False),
        )[1],
        seconds=OUTAGE_SECONDS,
    )(world)


def on_port(life: Life) -> Life:
    """Return a life whose operator answers probes on a port that is noted."""
    port = free_port()
    begin = lambda world: (world.notes.update(port=port), life.begin(world))[1]  # noqa: E731
    return replace(life, begin=begin, settings={**life.settings, "health_port": port})


def healthz(port: int) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10, trust_env=False)


def by_rule(rule: Rule, seconds: float) -> Callable[[World], None]:
    return lasting(
        has_traffic, lambda world: world.proxy.join(rule), lambda world: world.proxy.disarm(), seconds=seconds
    )


def without_lists_from_the_start(life: Life) -> Life:
    """Return a life whose operator is started anew where no list is answered."""

    def begin(world: World) -> None:
        world.operator.kill()
        world.once("gone", lambda: world.proxy.join(NO_LISTS))
        life.begin(world)

    return replace(life, begin=begin)


# Wall clocks that jump

PAUSE_SECONDS = 25


def begin_timed(world: World) -> None:
    steps = [{"setWeight": 25}, {"analysis": {}}, {"setWeight": 50}, {"pause": {"durationSeconds": PAUSE_SECONDS}}]
    world.stage.change(rollout={"steps": steps})
    world.stage.successor()


TIMED = replace(
    rollout("deployment-promoted", "True/Promoted", {"r2": 100}, begin=begin_timed),
    settings={"own_clock": True},
)
RETRIED = replace(
    finetune(
        "finetune-own-fault",
        {
            "prepare": PREPARED,
            "train-1": Ending(exit_code=10, result=lambda _: NAN, runs=True),
            "train-2": TRAINED,
        },
        ("True", "Succeeded"),
        backoffLimit=1,
    ),
    settings={"own_clock": True},
)


def jump_in_pause(seconds: float) -> Callable[[World], None]:
    def disturb(world: World) -> None:
        if world.stage.weights().get("r2") == 50:
            world.once("pause", lambda: world.operator.put_clock(seconds))
        if world.stage.weights().get("r2") == 100:
            world.once("over", lambda: None)

    return disturb


def jump_in_back_off(seconds: float) -> Callable[[World], None]:
    def disturb(world: World) -> None:
        if job_status(world) and summary(job_status(world))[1] == "Retrying":
            world.once("pause", lambda: world.operator.put_clock(seconds))
        if "tickets-train-2" in world.place.job_names():
            world.once("over", lambda: None)

    return disturb


# All runs


@pytest.fixture(scope="module")
def runs(api, tmp_path_factory) -> Iterator[dict[str, Future[Any]]]:
    install_routes(api)
    folder = tmp_path_factory.mktemp("runs")

    def asked(life: Life, *, seconds: float) -> Life:
        return asked_afterwards(life, seconds=seconds + 150)

    with ThreadPoolExecutor(6) as pool:
        begin = lambda life, disturb: pool.submit(live, api, life, folder, disturb)  # noqa: E731
        begun: dict[str, Future[Any]] = {
            "gone": begin(on_port(asked(ROLLBACK, seconds=OUTAGE_SECONDS)), gone),
            "dead watch": pool.submit(dead_watch, api, folder),
            "lists, at start": begin(
                without_lists_from_the_start(asked(ROLLBACK, seconds=LISTS_SECONDS)),
                by_rule(NO_LISTS, LISTS_SECONDS),
            ),
            "lists": begin(asked(PROMOTED, seconds=LISTS_SECONDS), by_rule(NO_LISTS, LISTS_SECONDS)),
            "kopf": begin(asked(PROMOTED, seconds=KOPF_SECONDS), by_rule(NO_OWN_WATCHES, KOPF_SECONDS)),
            "silence": begin(asked(PROMOTED, seconds=90), by_rule(SILENCE, 5)),
        }
        for life in (PROMOTED, ROLLBACK, TIMED, RETRIED):
            begun[f"undisturbed {life.name} {sorted(life.settings)}"] = pool.submit(run, api, life, folder)
        for how, seconds in JUMPS.items():
            begun[f"clock {how}"] = begin(TIMED, jump_in_pause(seconds))
            begun[f"training, clock {how}"] = begin(RETRIED, jump_in_back_off(seconds))
        yield begun


def ended_as_undisturbed(runs, life: Life, done: Run) -> list[str]:
    return compare(runs[f"undisturbed {life.name} {sorted(life.settings)}"].result(), done)


@pytest.mark.row(15)
def test_an_api_server_that_is_gone_for_five_minutes(runs):
    found: Lasting = runs["gone"].result()
    assert ended_as_undisturbed(runs, ROLLBACK, found.done) == []
    assert found.done.starts == 1
    assert found.seconds("gone", "back") >= OUTAGE_SECONDS
    assert found.world.notes["health"] == "ok\n", "a restart would help nobody"


@pytest.mark.row(15)
@pytest.mark.parametrize(("when", "life", "starts"), [("lists, at start", ROLLBACK, 2), ("lists", PROMOTED, 1)])
def test_lists_that_fail_for_minutes(runs, when, life, starts):
    found: Lasting = runs[when].result()
    assert ended_as_undisturbed(runs, life, found.done) == []
    assert found.done.starts == starts
    assert found.seconds("gone", "back") >= LISTS_SECONDS


@pytest.mark.row(18)
def test_kopf_that_ends_again_and_again(runs):
    found: Lasting = runs["kopf"].result()
    assert found.world.log().count("kopf ended") >= 3
    assert ended_as_undisturbed(runs, PROMOTED, found.done) == []
    assert found.done.starts == 1


@pytest.mark.row(19)
def test_all_watches_silent_at_once_are_replaced(runs):
    found: Lasting = runs["silence"].result()
    assert len(found.world.proxy.fired) >= len(TYPES.split("|")), "each of the watches was silent"
    assert ended_as_undisturbed(runs, PROMOTED, found.done) == []
    assert found.done.starts == 1
    print(f"answered after {found.seconds('asked', 'answered'):.0f} s")
    assert found.seconds("asked", "answered") <= SILENT_SECONDS + SLACK_SECONDS


@pytest.mark.row(7)
@pytest.mark.parametrize("how", JUMPS)
def test_a_clock_that_jumps_in_mid_rollout_shortens_and_stretches_no_pause(runs, how):
    found: Lasting = runs[f"clock {how}"].result()
    assert ended_as_undisturbed(runs, TIMED, found.done) == []
    assert found.done.starts == 1
    assert PAUSE_SECONDS - 3 <= found.seconds("pause", "over") <= PAUSE_SECONDS + SLACK_SECONDS


@pytest.mark.row(7)
@pytest.mark.parametrize("how", JUMPS)
def test_a_clock_that_jumps_in_mid_training_neither_hurries_nor_delays_the_next_attempt(runs, how):
    found: Lasting = runs[f"training, clock {how}"].result()
    assert ended_as_undisturbed(runs, RETRIED, found.done) == []
    assert found.done.starts == 1
    assert 6 <= found.seconds("pause", "over") <= 10 + SLACK_SECONDS


# A watch that nothing mends

NO_DEPLOYMENTS = (
    Rule(act="status", method="GET", path=".*/deployments", status=403, times=0),
    Rule(act="watch-error", path=".*/deployments", status=403, times=0),
)


def dead_watch(api, folder) -> dict[str, str]:
    """Return what the probe says while one type is heard of no more, and after a restart."""
    port, found = free_port(), {}
    with open_world(api, "long-dead-watch", folder, health_port=port) as world:
        world.operator.start()
        world.place.make("finetunejobs", make_finetunejob(suspend=True))
        until(lambda: job_status(world), "the operator is at work")
        found["before"] = healthz(port).text
        world.proxy.arm(*NO_DEPLOYMENTS)
        until(lambda: healthz(port).status_code == 503, "the dead watch is seen", seconds=DEAD_SECONDS + 60)
        found["dead"] = healthz(port).text
        world.place.make("finetunejobs", make_finetunejob("other"))
        world.place.job("other-data-1")
        world.proxy.disarm()
        world.operator.kill()
        until(lambda: not world.operator.is_alive(), "it is gone")
        world.operator.start()
        until(lambda: is_listening(port), "it answers probes again")
        found["after"] = healthz(port).text
        found["log"] = world.log()
    return found


def is_listening(port: int) -> bool:
    try:
        return healthz(port).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.row(12)
def test_a_watch_that_stays_dead_fails_the_probe_and_is_named_while_others_go_on(runs):
    found = runs["dead watch"].result()
    assert (found["before"], found["after"]) == ("ok\n", "ok\n")
    assert found["dead"] == "nothing was heard for 300 s of: Deployment\n"
    assert "Traceback" not in found["log"]
