"""Whole lives of a FineTuneJob in memory, with the operator killed before any one of its status writes."""

from datetime import timedelta

import pytest

from factories import make_finetunejob
from jobworld import NOW, PREPARE_DETAILS, World, complete, ended_pod, failed_by_rule, step_result, train_details
from luthier.api.finetunejob import FineTuneJobSpec
from luthier.finetune.build import find_places
from luthier.finetune.decide import decide
from luthier.finetune.observe import Observed
from luthier.naming import ROLE_LABEL
from luthier.settings import Settings

SETTINGS = Settings(_env_file=None)


def observe(world: World, now) -> Observed:
    def of(role):
        return tuple(job for job in world.jobs.values() if job["metadata"]["labels"][ROLE_LABEL] == role)

    return Observed(
        now=now,
        settings=SETTINGS,
        prepare_jobs=of("prepare"),
        train_jobs=of("train"),
        report_jobs=of("report"),
        pods=tuple(world.pods.values()),
    )


def finish(world: World, lost_attempts: int) -> None:
    """Let every Job that has not ended end: data and reports well, the first attempts taken away, the next well."""
    artifact = find_places(world.obj, FineTuneJobSpec.model_validate(world.obj["spec"])).artifact.container_path
    for name, job in world.jobs.items():
        if job.get("status"):
            continue
        role = job["metadata"]["labels"][ROLE_LABEL]
        number = int(job["metadata"]["labels"].get("luthier.dev/attempt", "0"))
        if role == "train" and number <= lost_attempts:
            world.jobs[name] = failed_by_rule(job, 0)
            continue
        details = PREPARE_DETAILS if role == "prepare" else train_details(artifact)
        world.jobs[name] = complete(job)
        world.pods[name] = ended_pod(job, result=step_result(details=details))


def live(world: World, *, lost_attempts: int = 0, lose_status: int | None = None) -> World:
    """Run passes until one writes nothing and no Job is open; a minute passes between two."""
    now = NOW
    for _ in range(40):
        before = (world.writes, world.status_writes)
        world.apply(decide(world.obj, observe(world, now)), lose_status=lose_status)
        if (world.writes, world.status_writes) == before and all(job.get("status") for job in world.jobs.values()):
            return world
        finish(world, lost_attempts)
        now += timedelta(seconds=60)
    raise AssertionError("the life did not come to rest")


def end_of(world: World):
    status = world.obj["status"]
    succeeded = next(c for c in status["conditions"] if c["type"] == "Succeeded")
    return succeeded["status"], status["artifact"]["digest"], [a["outcome"] for a in status["attempts"]]


def test_a_life_makes_two_jobs_and_few_writes():
    world = live(World(obj=make_finetunejob()))
    assert [name.rsplit("-", 1)[0] for name in world.created] == ["tickets-data-1", "tickets-train-1"]
    assert world.status_writes <= 4


@pytest.mark.parametrize("lost_attempts", [0, 2])
@pytest.mark.row(2)
def test_killed_before_any_status_write_the_end_is_the_same(lost_attempts):
    straight = live(World(obj=make_finetunejob()), lost_attempts=lost_attempts)
    for number in range(1, straight.status_writes + 1):
        world = live(World(obj=make_finetunejob()), lost_attempts=lost_attempts, lose_status=number)
        assert end_of(world) == end_of(straight), f"status write {number} lost"
        assert world.created == straight.created, f"status write {number} lost"


@pytest.mark.row(2)
def test_a_status_that_was_emptied_is_rebuilt_without_training_again():
    world = live(World(obj=make_finetunejob()), lost_attempts=1)
    made = list(world.created)
    end = end_of(world)
    world.obj.pop("status")
    assert end_of(live(world)) == end
    assert world.created == made
