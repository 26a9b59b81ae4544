"""The chain from data to verdict, played to its end; what the operator made on the way, and deletions of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import yaml

from factories import make_evaluation, make_finetunejob
from faults.hands import all_children
from faults.lives import FOLDERS, HANGS, PREPARED, SUITE, TRAINED, Ending, job_status, judged, play_pods
from faults.world import World
from jobstage import artifact_path
from jobworld import summary
from waiting import until

Json = dict[str, Any]


def made(world: World, plural: str = "jobs", *, since: int = 0) -> list[str]:
    """Return the names of what the operator made, as often as it did, without the hash of their owner."""
    posted = [w for w in world.proxy.writes[since:] if w.path.endswith(f"/{plural}") and w.status == 201]
    return [yaml.safe_load(w.body)["metadata"]["name"].rpartition("-")[0] for w in posted]


def play(
    world: World, script: dict[str, Ending], is_so: Callable[[], object], what: str, *, seconds: float = 30
) -> None:
    """Let pods run and end until something is so."""
    until(lambda: (play_pods(world, script), is_so())[1], what, seconds=seconds)


def is_summed_up(world: World, *wanted: str) -> bool:
    status = job_status(world)
    return bool(status) and summary(status) == wanted


def is_at_work(world: World, name: str = "other", *, seconds: float = 60) -> None:
    """Wait until the operator has made something of a new object: it has seen all that was before."""
    world.place.make("finetunejobs", make_finetunejob(name))
    until(lambda: f"{name}-data-1" in world.place.job_names(), "the operator is at work", seconds=seconds)


NO_END = {"prepare": PREPARED, "train": HANGS}


def trains(world: World) -> bool:
    return is_summed_up(world, "Unknown", "Training")


def finetuned(world: World) -> None:
    world.place.make("finetunejobs", make_finetunejob())
    play(world, {"prepare": PREPARED, "train": TRAINED}, lambda: is_summed_up(world, "True", "Succeeded"), "trained")
    world.notes["artifact"] = artifact_path(world.place.get("finetunejobs", "tickets"))


def evaluated(world: World) -> None:
    gates = [{"suite": "held-out", "metric": "exact", "minPercent": 70}]
    world.place.make("evaluations", make_evaluation(target=FOLDERS, suites=[SUITE], gates=gates))
    ended = lambda: has_passed(world)  # noqa: E731
    play(world, {"evaluate": Ending(result=judged("Passed"))}, ended, "it has passed")


def has_passed(world: World) -> bool:
    status = world.place.status("evaluations", "tickets-eval")
    return bool(status.get("conditions")) and summary(status) == ("True", "Passed")


def delete_jobs(world: World, prefix: str = "") -> None:
    """Delete the Jobs whose names begin so."""
    names = [j["metadata"]["name"] for j in world.place.list("jobs") if j["metadata"]["name"].startswith(prefix)]
    assert names
    for name in names:
        world.place.delete("jobs", name)


def delete_own(api: httpx.Client, world: World, plural: str, name: str, propagation: str) -> None:
    """Delete an object of ours, and wait until it and, but for orphans, its children are gone."""
    uid = world.place.get(plural, name)["metadata"]["uid"]
    reply = api.delete(world.place.url(plural, name), params={"propagationPolicy": propagation})
    assert reply.status_code == 200, reply.text
    until(lambda: world.place.get(plural, name) is None, "it is gone")
    if propagation == "Orphan":
        return
    until(lambda: not owned(world, uid), "its children are gone")


def owned(world: World, uid: str) -> list[str]:
    found = [*all_children(world), *world.place.list("jobs")]
    return [
        c["metadata"]["name"] for c in found if any(o["uid"] == uid for o in c["metadata"].get("ownerReferences", ()))
    ]
