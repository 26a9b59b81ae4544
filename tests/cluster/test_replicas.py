"""Two operators and one Lease: exactly one writes, whichever of them dies or loses the Lease, and nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from factories import make_finetunejob
from faults.lives import PREPARED, TRAINED, begin_first, first_serves, job_status, play_pods
from faults.replicas import Pair, kill, open_pair
from faults.rules import Rule
from jobworld import summary
from luthier.lease import LEASE_SECONDS
from servingstage import install_routes
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.flood]
TAKEOVER_SECONDS = LEASE_SECONDS + 5
RENEWED_SECONDS = 10.0
"""A leader that could not renew for so long has stopped."""


@pytest.fixture
def pair(api, namespace, tmp_path) -> Iterator[Pair]:
    install_routes(api)
    with open_pair(api, f"{namespace}-pair", tmp_path) as opened:
        yield opened


def made_twice(pair: Pair) -> list[str]:
    """Return the names of children that were made more than once."""
    made = [yaml.safe_load(write.body) for write in pair.all_writes() if write.status == 201]
    names = Counter(f"{obj['kind']} {obj['metadata']['name']}" for obj in made if obj["kind"] != "Event")
    return [f"{name}: {times} times" for name, times in names.items() if times > 1]


def told(pair: Pair, name: str = "tickets") -> tuple[str, str] | None:
    status = pair.world.place.status("finetunejobs", name)
    return summary(status) if status.get("conditions") else None


@pytest.mark.row(5)
def test_exactly_one_writes_and_the_other_takes_over_when_it_is_killed(pair: Pair, record_property):
    world = pair.world
    world.place.make("finetunejobs", make_finetunejob())
    until(
        lambda: (play_pods(world, {"prepare": PREPARED}), told(pair) == ("Unknown", "Pending"))[1], "attempt 1 is made"
    )
    leader, standby = pair.leader()
    assert leader.writes()
    assert standby.writes() == []
    killed_at = kill(leader)
    world.place.make("finetunejobs", make_finetunejob("second"))
    until(lambda: "second-data-1" in world.place.job_names(), "the other acts", seconds=TAKEOVER_SECONDS + 10)
    took = standby.writes()[0].at - killed_at
    record_property("failover_seconds", round(took, 1))
    assert took <= TAKEOVER_SECONDS
    script = {"prepare": PREPARED, "train": TRAINED}
    until(lambda: (play_pods(world, script), is_trained(pair))[1], "what the first began, the second ends")
    assert made_twice(pair) == []
    assert len(job_status(world)["attempts"]) == 1
    assert standby.operator.is_alive()


def is_trained(pair: Pair) -> bool:
    return told(pair) == ("True", "Succeeded")


@pytest.mark.row(5, 55)
def test_a_leader_killed_between_breach_and_route_leaves_no_weight(pair: Pair, record_property):
    world = pair.world
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    leader, standby = pair.leader()
    world.stage.change(rollout={"analysis": {"minSamples": 100_000}})
    world.stage.successor()
    until(lambda: world.stage.weights().get("r2") == 25, "r2 has traffic")
    leader.proxy.arm(Rule(act="kill-before", method="PUT", path=".*/httproutes/.*"))
    world.stage.errors["r2"] = 0.6
    until(lambda: not leader.operator.is_alive(), "the leader died with the breach known to itself only")
    killed_at = time.monotonic()
    assert world.stage.weights() == {"r1": 75, "r2": 25}
    until(lambda: world.stage.weights() == {"r1": 100}, "no weight is left", seconds=TAKEOVER_SECONDS + 10)
    took = time.monotonic() - killed_at
    record_property("failover_seconds", round(took, 1))
    assert took <= TAKEOVER_SECONDS
    until(lambda: world.stage.condition("Stalled") == "True/RolledBack", "status says so")
    assert made_twice(pair) == []
    assert standby.writes()


LOST = {
    "answered with errors": Rule(act="status", path=".*/leases.*", status=500, times=0),
    "never answered": Rule(act="delay", path=".*/leases.*", seconds=5, times=0),
    "conflicts for ever": Rule(act="status", path=".*/leases.*", method="PUT", status=409, times=0),
}


@pytest.mark.row(6)
def test_a_leader_without_its_lease_stops_in_time_and_comes_back(api, namespace, tmp_path):
    install_routes(api)

    def play(number: int, how: str) -> None:
        with open_pair(api, f"{namespace}-{number}", tmp_path) as pair:
            lose_and_win_back(pair, how)

    with ThreadPoolExecutor(len(LOST)) as pool:  # each of them waits for half a minute
        for done in [pool.submit(play, number, how) for number, how in enumerate(LOST)]:
            done.result()


def lose_and_win_back(pair: Pair, how: str) -> None:
    pair.world.place.make("finetunejobs", make_finetunejob(suspend=True))
    until(lambda: told(pair) == ("Unknown", "Suspended"), "one leads")
    leader, standby = pair.leader()
    leader.proxy.arm(LOST[how])
    lost_at = time.monotonic()
    until(lambda: (keep_busy(pair), standby.writes())[1], f"{how}: the other leads", seconds=LEASE_SECONDS + 10)
    last, first = leader.writes()[-1].at, standby.writes()[0].at
    print(f"{how}: the last write {last - lost_at:.1f} s after, the other's first {first - lost_at:.1f} s after")
    assert len(leader.writes()) >= 3, "it had something to write all the time"
    assert last - lost_at <= RENEWED_SECONDS + 1
    assert last < first
    assert first - lost_at <= TAKEOVER_SECONDS
    assert leader.operator.is_alive()

    leader.proxy.disarm()
    kill(standby)
    leader.proxy.arm()
    until(lambda: (keep_busy(pair), leader.writes())[1], f"{how}: it leads again", seconds=TAKEOVER_SECONDS + 5)
    assert leader.operator.starts == 1


def keep_busy(pair: Pair) -> None:
    """Write into the status what is not so: whoever leads has to mend it."""
    place = pair.world.place
    status = place.status("finetunejobs", "tickets")
    spoiled = [{**condition, "message": f"spoiled at {time.monotonic()}"} for condition in status["conditions"]]
    place.patch("finetunejobs", "tickets", {"status": {"conditions": spoiled}}, subresource="status")
