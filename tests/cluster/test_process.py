"""What happens to the process itself: told to end in mid-rollout, and standing still for longer than its Lease."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest
import yaml

from factories import make_finetunejob
from faults.crash import compare, run
from faults.lives import LIVES, begin_first, first_serves
from faults.replicas import Pair, Replica, open_pair
from faults.world import World
from luthier.lease import LEASE_SECONDS
from servingstage import install_routes
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STILL_SECONDS = 30.0
TAKEOVER_SECONDS = LEASE_SECONDS + 5
EXIT_SECONDS = 30.0
"""What Kubernetes gives a pod by default."""


@pytest.mark.row(3)
@pytest.mark.parametrize("life", ["deployment-rolled-back", "finetune-success"])
def test_told_to_end_in_mid_step_it_ends_in_time_and_the_next_one_goes_on(api, routes, tmp_path, life):
    ended: list[tuple[int | None, float]] = []

    def disturb(world: World) -> None:
        if world.proxy.writes and "told" not in world.notes:
            world.once("told", lambda: world.operator.signal(signal.SIGTERM))
            until(lambda: not world.operator.is_alive(), "it ends", seconds=EXIT_SECONDS)
            ended.append((world.operator.exit_code, time.monotonic() - world.notes["told"]))

    undisturbed, done = run(api, LIVES[life], tmp_path), run(api, LIVES[life], tmp_path, disturb=disturb)
    assert compare(undisturbed, done) == []
    [(code, seconds)] = ended
    print(f"ended after {seconds:.1f} s")
    assert code == 0
    assert done.starts == 2


@pytest.mark.row(5)
@pytest.mark.flood
def test_a_leader_that_stands_still_for_half_a_minute_writes_nothing_when_it_goes_on(
    api, namespace, tmp_path, record_property
):
    install_routes(api)
    with open_pair(api, f"{namespace}-still", tmp_path) as pair:
        leader, standby = rolling_out(pair)
        leader.operator.signal(signal.SIGSTOP)
        stopped_at, before = time.monotonic(), leader.writes()
        pair.world.stage.errors["r2"] = 0.6
        until(lambda: pair.world.stage.weights() == {"r1": 100}, "the other takes the weight back", seconds=40)
        took = time.monotonic() - stopped_at
        record_property("failover_seconds", round(took, 1))
        assert took <= TAKEOVER_SECONDS
        until(lambda: time.monotonic() > stopped_at + STILL_SECONDS, "half a minute is over")
        leader.operator.signal(signal.SIGCONT)
        log = leader.operator.log
        until(lambda: "leads no more" in log.read_text(), "the first knows that it leads no more", seconds=20)
        pair.world.place.make("finetunejobs", make_finetunejob("other"))
        until(lambda: "other-data-1" in pair.world.place.job_names(), "the second acts on")
        until(lambda: pair.world.stage.condition("Stalled") == "True/RolledBack", "status says so")
        assert leader.writes() == before, "the first has written nothing since it stood still"
        assert standby.operator.is_alive()
        assert leader.operator.is_alive()
        made = [yaml.safe_load(write.body) for write in pair.all_writes() if write.status == 201]
        names = Counter((obj["kind"], obj["metadata"]["name"]) for obj in made if obj["kind"] != "Event")
        assert set(names.values()) == {1}, "nothing was made twice"


def rolling_out(pair: Pair) -> tuple[Replica, Replica]:
    """Let a candidate have traffic; return who leads and who does not."""
    world = pair.world
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    replicas = pair.leader()
    world.stage.change(rollout={"analysis": {"minSamples": 100_000}})
    world.stage.successor()
    until(lambda: world.stage.weights().get("r2") == 25, "r2 has traffic")
    return replicas
