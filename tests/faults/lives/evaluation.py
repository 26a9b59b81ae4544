"""The lives of Evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factories import make_evaluation
from faults.lives.life import Act, Kind, Life, Stretch
from faults.lives.pods import Ending, Script, children, play_pods
from faults.world import World, conditions_of, plain
from jobstage import verdict
from jobworld import summary

Json = dict[str, Any]


FOLDERS = {"fineTuneJob": None, "artifactUri": "pvc://artifacts/other", "baseModelUri": "pvc://models/smol"}
SUITE = {
    "name": "held-out",
    "type": "HeldOut",
    "datasetUri": "pvc://data/x.jsonl",
    "metrics": [{"name": "exact", "type": "ExactMatch"}],
}


def begin_evaluation(world: World) -> None:
    gates = [{"suite": "held-out", "metric": "exact", "minPercent": 70}]
    world.place.make("evaluations", make_evaluation(target=FOLDERS, suites=[SUITE], gates=gates))


def evaluation_state(world: World) -> Json:
    obj = world.place.get("evaluations", "tickets-eval")
    assert obj is not None
    status = obj["status"]
    kept = {k: status.get(k) for k in ("verdict", "modelDigest", "suites", "gates", "summary", "reportUri", "error")}
    kept |= {"conditions": conditions_of(status), "children": children(world, "jobs")}
    return plain(kept, uid=obj["metadata"]["uid"], namespace=world.place.name)


def judged(outcome: str) -> Callable[[World], Json]:
    def result(_: World) -> Json:
        found = verdict(outcome)
        found["details"] |= {"model_digest": "sha256:" + "a" * 64}
        return found

    return result


def evaluation_ended(*wanted: str) -> Callable[[World], bool]:
    def is_over(world: World) -> bool:
        status = world.place.status("evaluations", "tickets-eval")
        return bool(status.get("conditions")) and summary(status) == wanted

    return is_over


def evaluation(name: str, script: Script, end: tuple[str, str]) -> Life:
    return Life(
        name=name,
        begin=begin_evaluation,
        play=lambda world: play_pods(world, script),
        is_over=evaluation_ended(*end),
        state=evaluation_state,
    )


RUN = Kind(plural="evaluations", name="tickets-eval", children=("jobs", "pods"))


def reached(script: Script, is_there: Callable[[World], bool], begin: Act = begin_evaluation) -> Stretch:
    """Return the way to a phase of a new Evaluation."""
    return Stretch(begin=begin, play=lambda world: play_pods(world, script), is_there=is_there)


def begin_waiting(world: World) -> None:
    """Ask for an Evaluation of a FineTuneJob that nobody has made."""
    world.place.make("evaluations", make_evaluation())


def is_running(world: World) -> bool:
    return any(pod["status"]["phase"] == "Running" for pod in world.place.list("pods"))


def play_suspend(world: World) -> None:
    """Suspend while the model is judged, and go on when that has stopped."""
    suspend = lambda value: world.place.patch("evaluations", "tickets-eval", {"spec": {"suspend": value}})  # noqa: E731
    if is_running(world):
        world.once("suspend", lambda: suspend(True))
    if "suspend" in world.notes and SUSPENDED(world) and not world.place.list("jobs"):
        world.once("resume", lambda: suspend(False))
    play_pods(world, {"evaluate": PASSED if "resume" in world.notes else HANGS})


PASSED = Ending(result=judged("Passed"))
HANGS = Ending(runs=True, hangs=True)
SUSPENDED = evaluation_ended("Unknown", "Suspended")
PHASES = {
    "waiting": reached({}, evaluation_ended("Unknown", "WaitingForFineTuneJob"), begin_waiting),
    "running": reached({"evaluate": HANGS}, is_running),
    "passed": reached({"evaluate": PASSED}, evaluation_ended("True", "Passed")),
    "failed": reached({"evaluate": Ending(result=judged("Failed"))}, evaluation_ended("False", "GatesFailed")),
}

EVALUATION = [
    evaluation("evaluation-passed", {"evaluate": Ending(result=judged("Passed"))}, ("True", "Passed")),
    evaluation("evaluation-failed", {"evaluate": Ending(result=judged("Failed"))}, ("False", "GatesFailed")),
    evaluation(
        "evaluation-verdict-lost",
        {"evaluate": Ending(), "report": Ending(result=judged("Passed"))},
        ("True", "Passed"),
    ),
    Life(
        name="evaluation-suspended-and-resumed",
        begin=begin_evaluation,
        play=play_suspend,
        is_over=evaluation_ended("True", "Passed"),
        state=evaluation_state,
    ),
    *(RUN.deleted(f"evaluation-deleted-{phase}", before) for phase, before in PHASES.items()),
    RUN.deleted("evaluation-deleted-in-the-foreground", PHASES["running"], propagation="Foreground"),
    RUN.deleted("evaluation-orphaned", PHASES["running"], propagation="Orphan"),
]
EVALUATION.append(RUN.deleted_anywhere("evaluation-deleted-anywhere", EVALUATION[0]))
