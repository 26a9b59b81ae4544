"""The lives of FineTuneJobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factories import make_finetunejob
from faults.lives.life import Kind, Life, Stretch
from faults.lives.pods import Ending, Script, children, is_seen_running, job_status, play_pods
from faults.world import World, conditions_of, plain
from jobstage import artifact_path
from jobworld import PREPARE_DETAILS, step_result, summary, train_details
from luthier.naming import ROLE_LABEL

Json = dict[str, Any]
DISRUPTION = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "spot"}


def prepared(world: World) -> Json:
    return step_result(details=PREPARE_DETAILS)


def trained(world: World) -> Json:
    obj = world.place.get("finetunejobs", "tickets")
    return step_result(details=train_details(artifact_path(obj))) if obj else step_result()


PREPARED = Ending(result=prepared)
TRAINED = Ending(result=trained, runs=True)


def begin_finetune(**spec: Any) -> Callable[[World], None]:
    return lambda world: world.place.make("finetunejobs", make_finetunejob(**spec)) and None


def finetune_state(world: World) -> Json:
    obj = world.place.get("finetunejobs", "tickets")
    assert obj is not None
    status = obj["status"]
    kept = {
        "conditions": conditions_of(status),
        "attempts": [(a["number"], a["outcome"]) for a in status.get("attempts", [])],
        "counted": {k: status.get(k) for k in ("resumeCount", "artifact", "dataset", "error")},
        "cost": {k: v for k, v in status.get("cost", {}).items() if k != "countedPods"},
        "children": children(world, "jobs"),
    }
    return plain(kept, uid=obj["metadata"]["uid"], namespace=world.place.name)


def ended(*wanted: str) -> Callable[[World], bool]:
    def is_over(world: World) -> bool:
        status = job_status(world)
        return bool(status) and summary(status) == wanted

    return is_over


def finetune(name: str, script: Script, end: tuple[str, str], **spec: Any) -> Life:
    return Life(
        name=name,
        begin=begin_finetune(**spec),
        play=lambda world: play_pods(world, script),
        is_over=ended(*end),
        state=finetune_state,
    )


def play_suspend(world: World) -> None:
    """Suspend while attempt 1 trains, and go on when it has stopped."""
    set_suspend = lambda value: world.place.patch("finetunejobs", "tickets", {"spec": {"suspend": value}})  # noqa: E731
    if is_seen_running(world):
        world.once("suspend", lambda: set_suspend(True))
    status = job_status(world)
    stopped = status and summary(status)[1] == "Suspended" and not any("train" in j for j in children(world, "jobs"))
    if "suspend" in world.notes and stopped:
        world.once("resume", lambda: set_suspend(False))
    play_pods(world, {"prepare": PREPARED, "train-1": HANGS} | ({"train": TRAINED} if "resume" in world.notes else {}))


HANGS = Ending(runs=True, hangs=True)


REFUSED = step_result("UserError", "InvalidRow", "pvc://data/tickets.jsonl:7: no messages", field="dataset.sources")
NAN = step_result("UserError", "NumericalError", "the loss is NaN at step 12")

JOB = Kind(plural="finetunejobs", name="tickets", children=("jobs", "pods"))


def reached(script: Script, is_there: Callable[[World], bool], **spec: Any) -> Stretch:
    """Return the way to a phase of a new FineTuneJob."""
    return Stretch(begin=begin_finetune(**spec), play=lambda world: play_pods(world, script), is_there=is_there)


def has_pod(role: str, phase: str) -> Callable[[World], bool]:
    """Return whether a role's pod is in this phase."""

    def is_so(world: World) -> bool:
        pods = [p for p in world.place.list("pods") if p["metadata"]["labels"].get(ROLE_LABEL) == role]
        return any(pod["status"]["phase"] == phase for pod in pods)

    return is_so


PHASES = {
    "before-data": reached({}, has_pod("prepare", "Pending")),
    "preparing": reached({"prepare": HANGS}, has_pod("prepare", "Running")),
    "between": reached({"prepare": PREPARED}, has_pod("train", "Pending")),
    "training": reached({"prepare": PREPARED, "train": HANGS}, is_seen_running),
    "suspended": reached({}, ended("Unknown", "Suspended"), suspend=True),
    "succeeded": reached({"prepare": PREPARED, "train": TRAINED}, ended("True", "Succeeded")),
    "failed": reached({"prepare": Ending(exit_code=10, result=lambda _: REFUSED)}, ended("False", "InvalidRow")),
}

FINETUNE = [
    finetune("finetune-success", {"prepare": PREPARED, "train": TRAINED}, ("True", "Succeeded")),
    finetune(
        "finetune-refused-data", {"prepare": Ending(exit_code=10, result=lambda _: REFUSED)}, ("False", "InvalidRow")
    ),
    finetune(
        "finetune-own-fault",
        {"prepare": PREPARED, "train": Ending(exit_code=10, result=lambda _: NAN, runs=True)},
        ("False", "BackoffLimitExceeded"),
        backoffLimit=0,
    ),
    finetune(
        "finetune-evicted",
        {"prepare": PREPARED, "train-1": Ending(exit_code=20, status={"conditions": [DISRUPTION]}), "train": TRAINED},
        ("True", "Succeeded"),
        backoffLimit=0,
    ),
    finetune(
        "finetune-result-lost",
        {"prepare": PREPARED, "train": Ending(runs=True), "report": Ending(result=trained)},
        ("True", "Succeeded"),
    ),
    Life(
        name="finetune-suspended-and-resumed",
        begin=begin_finetune(),
        play=play_suspend,
        is_over=ended("True", "Succeeded"),
        state=finetune_state,
    ),
    *(JOB.deleted(f"finetune-deleted-{phase}", before) for phase, before in PHASES.items()),
    JOB.deleted("finetune-deleted-in-the-foreground", PHASES["training"], propagation="Foreground"),
    JOB.deleted("finetune-orphaned", PHASES["training"], propagation="Orphan"),
]
FINETUNE.append(JOB.deleted_anywhere("finetune-deleted-anywhere", FINETUNE[0]))
