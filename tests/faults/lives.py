"""The lives that are disturbed: how each begins, who plays what in it, when it is over, and what must then be there.

A player looks and acts, ten times a second, and is never disturbed itself: kubelet, gateway, clients, people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from factories import make_evaluation, make_finetunejob, make_modeldeployment
from faults.world import World, conditions_of, plain, stem
from jobstage import artifact_path, verdict
from jobworld import PREPARE_DETAILS, step_result, summary, train_details
from luthier.naming import ATTEMPT_LABEL, REVISION_LABEL, ROLE_LABEL

Json = dict[str, Any]
DISRUPTION = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "spot"}


@dataclass(frozen=True, kw_only=True)
class Life:
    """One way from a first `kubectl apply` to an end.

    `begin` brings the world to where crashes are enumerated from; `play` acts; `is_over` says when; `state` is what is
    compared with the undisturbed run.
    """

    name: str
    begin: Callable[[World], None]
    play: Callable[[World], None]
    is_over: Callable[[World], bool]
    state: Callable[[World], Json]
    seconds: float = 60.0
    settings: dict[str, object] = field(default_factory=dict)


# Jobs


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a pod of a role ends. `runs`: first it is seen running; `hangs`: it never ends."""

    exit_code: int = 0
    result: Callable[[World], Json] | None = None
    status: dict[str, Any] = field(default_factory=dict)
    runs: bool = False
    hangs: bool = False


Script = dict[str, Ending]
"""By role, or by role and attempt: `train`, `train-1`."""


def play_pods(world: World, script: Script) -> None:
    """Let the Jobs' pods run and end as the script says; a role that it does not name hangs."""
    for pod in world.place.list("pods"):
        labels = pod["metadata"]["labels"]
        role = labels.get(ROLE_LABEL, "")
        ending = script.get(f"{role}-{labels.get(ATTEMPT_LABEL)}") or script.get(role)
        phase = pod["status"]["phase"]
        if ending is None or phase in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]:
            continue
        name = pod["metadata"]["name"]
        if ending.runs and phase == "Pending":
            _tolerating(lambda name=name: world.place.patch("pods", name, RUNNING, subresource="status"))
            continue
        if ending.hangs or (ending.runs and not _is_seen_running(world)):
            continue
        result = ending.result(world) if ending.result else None
        _tolerating(
            lambda pod=pod, ending=ending, result=result: world.place.end(
                pod, exit_code=ending.exit_code, result=result, **ending.status
            )
        )


RUNNING = {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}


def _tolerating(do: Callable[[], object]) -> None:
    """Act on what may be gone by now."""
    try:
        do()
    except AssertionError as error:
        if "404" not in str(error) and "not found" not in str(error):
            raise


def _is_seen_running(world: World) -> bool:
    return summary(job_status(world), "Training") == ("True", "Running") if job_status(world) else False


def job_status(world: World) -> Json:
    status = world.place.status("finetunejobs", "tickets")
    return status if status.get("conditions") else {}


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
    if obj is None:
        return {"gone": True, "children": children(world, "jobs", "pods")}
    status = obj["status"]
    kept = {
        "conditions": conditions_of(status),
        "attempts": [(a["number"], a["outcome"]) for a in status.get("attempts", [])],
        "counted": {k: status.get(k) for k in ("resumeCount", "artifact", "dataset", "error")},
        "cost": {k: v for k, v in status.get("cost", {}).items() if k != "countedPods"},
        "children": children(world, "jobs"),
    }
    return plain(kept, uid=obj["metadata"]["uid"], namespace=world.place.name)


def children(world: World, *plurals: str) -> list[str]:
    return sorted(
        f"{plural}/{stem(child['metadata']['name']) if plural == 'jobs' else child['metadata']['name']}"
        for plural in plurals
        for child in world.place.list(plural)
    )


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
    if _is_seen_running(world):
        world.once("suspend", lambda: set_suspend(True))
    status = job_status(world)
    stopped = status and summary(status)[1] == "Suspended" and not any("train" in j for j in children(world, "jobs"))
    if "suspend" in world.notes and stopped:
        world.once("resume", lambda: set_suspend(False))
    play_pods(world, {"prepare": PREPARED, "train-1": HANGS} | ({"train": TRAINED} if "resume" in world.notes else {}))


HANGS = Ending(runs=True, hangs=True)


def play_delete(world: World) -> None:
    """Delete the object while it trains."""
    play_pods(world, {"prepare": PREPARED, "train": HANGS})
    if _is_seen_running(world):
        world.once("delete", lambda: world.place.delete("finetunejobs", "tickets"))


def is_all_gone(world: World) -> bool:
    return "delete" in world.notes and not world.place.list("jobs") and not world.place.list("pods")


REFUSED = step_result("UserError", "InvalidRow", "pvc://data/tickets.jsonl:7: no messages", field="dataset.sources")
NAN = step_result("UserError", "NumericalError", "the loss is NaN at step 12")

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
    Life(
        name="finetune-deleted",
        begin=begin_finetune(),
        play=play_delete,
        is_over=is_all_gone,
        state=finetune_state,
    ),
]


# Evaluations


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
    if obj is None:
        return {"gone": True, "children": children(world, "jobs", "pods")}
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


EVALUATION = [
    evaluation("evaluation-passed", {"evaluate": Ending(result=judged("Passed"))}, ("True", "Passed")),
    evaluation("evaluation-failed", {"evaluate": Ending(result=judged("Failed"))}, ("False", "GatesFailed")),
    evaluation(
        "evaluation-verdict-lost",
        {"evaluate": Ending(), "report": Ending(result=judged("Passed"))},
        ("True", "Passed"),
    ),
]


# ModelDeployments


def begin_first(world: World) -> None:
    world.stage.rate = 200.0
    world.stage.evaluation("eval-1", "sha256:" + "1" * 64)
    body = make_modeldeployment(
        namespace=world.place.name,
        model={"fineTuneJob": None, "artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"},
        requireEvaluation={"name": "eval-1"},
        rollout={
            "steps": [{"setWeight": 25}, {"analysis": {}}, {"setWeight": 50}, {"pause": {}}],
            "abortScaleDownDelaySeconds": 0,
            "analysis": {"intervalSeconds": 1, "minSamples": MIN_SAMPLES, "metrics": [{"name": "ErrorRate"}]},
        },
    )
    world.stage.create("modeldeployments", {**body, "metadata": {"name": "support"}})


MIN_SAMPLES = 40


def first_serves(world: World) -> bool:
    return world.stage.condition("Ready") == "True/Initial" and world.stage.weights() == {"r1": 100}


def serving_state(world: World) -> Json:
    obj = world.place.get("modeldeployments", "support")
    if obj is None:
        return {"gone": True, "children": serving_children(world)}
    status = obj["status"]
    kept = {
        "conditions": conditions_of(status),
        "stable": status.get("stable", {}).get("name"),
        "candidate": status.get("candidate"),
        "rejected": status.get("rejected"),
        "weights": status.get("weights"),
        "route": world.stage.weights(),
        "history": [(h["revision"], h["outcome"], h["reason"]) for h in status.get("history", [])],
        "children": serving_children(world),
    }
    return plain(kept, uid=obj["metadata"]["uid"], namespace=world.place.name)


def serving_children(world: World) -> list[str]:
    found = []
    for plural in ("deployments", "services", "controllerrevisions", "httproutes"):
        for child in world.stage.list(plural):
            revision = child["metadata"].get("labels", {}).get(REVISION_LABEL, "-")
            replicas = child.get("spec", {}).get("replicas", "") if plural == "deployments" else ""
            found.append(f"{plural}/{revision}/{replicas}")
    return sorted(found)


def candidate(world: World) -> str:
    return (world.stage.status().get("candidate") or {}).get("name", "")


def approve(world: World) -> None:
    """Approve the pause as soon as it is reached."""
    if world.stage.condition("Ready") == "False/WaitingForApproval":
        named = {"revision": candidate(world), "step": 4}
        world.once("approve", lambda: world.stage.change(rollout={"approve": named}))


def abort(world: World) -> None:
    if world.stage.weights().get("r2"):
        name = candidate(world)
        if name.startswith("r2-"):
            world.once("abort", lambda: world.stage.change(rollout={"abort": {"revision": name}}))


def supersede(world: World) -> None:
    """Ask for a third model while the second has traffic, and let that one through."""
    if world.stage.weights().get("r2"):
        world.once("supersede", lambda: world.stage.successor(3))
    if candidate(world).startswith("r3-"):
        approve(world)


def revert(world: World) -> None:
    """Put the first model back into the spec while the second has traffic."""
    if world.stage.weights().get("r2"):
        model = {"artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"}
        world.once("revert", lambda: world.stage.change(model=model, requireEvaluation={"name": "eval-1"}))


def delete(world: World) -> None:
    if world.stage.weights().get("r2"):
        world.once("delete", lambda: world.place.delete("modeldeployments", "support"))


def break_it(world: World) -> None:
    world.stage.errors["r2"] = 0.6


def crash_it(world: World) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    terminated = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such file"}}
    world.stage.broken["r2"] = {"restartCount": 3, "state": waiting, "lastState": terminated}


def nobody(world: World) -> None:
    """Nobody acts."""


def rollout(
    name: str,
    play: Callable[[World], None],
    end: str,
    weights: dict[str, int],
    *,
    before: Callable[[World], None] = nobody,
) -> Life:
    """Return a life that begins when a second model is asked for."""

    def begin(world: World) -> None:
        before(world)
        world.stage.successor()

    def is_over(world: World) -> bool:
        return world.stage.condition("Ready") == end and world.stage.weights() == weights and _is_scaled(world)

    return Life(name=name, begin=begin, play=play, is_over=is_over, state=serving_state, seconds=120)


def _is_scaled(world: World) -> bool:
    """Say whether the pods of all but the stable are gone."""
    stable = world.stage.stable()
    return all(
        d["spec"]["replicas"] == 0
        for d in world.stage.list("deployments")
        if not d["metadata"]["labels"][REVISION_LABEL].startswith(f"{stable}-")
    )


def is_deployment_gone(world: World) -> bool:
    return "delete" in world.notes and not serving_children(world)


SERVING = [
    Life(
        name="deployment-first",
        begin=begin_first,
        play=nobody,
        is_over=first_serves,
        state=serving_state,
    ),
    rollout("deployment-promoted", approve, "True/Promoted", {"r2": 100}),
    rollout("deployment-rolled-back", nobody, "False/RolledBack", {"r1": 100}, before=break_it),
    rollout("deployment-crash-looping", nobody, "False/RolledBack", {"r1": 100}, before=crash_it),
    rollout("deployment-aborted", abort, "False/Aborted", {"r1": 100}),
    rollout("deployment-superseded", supersede, "True/Promoted", {"r3": 100}),
    rollout("deployment-reverted", revert, "True/Initial", {"r1": 100}),
    Life(
        name="deployment-deleted",
        begin=lambda world: world.stage.successor(),
        play=delete,
        is_over=is_deployment_gone,
        state=serving_state,
    ),
]

LIVES = {life.name: life for life in (*FINETUNE, *EVALUATION, *SERVING)}
NEEDS_STABLE = {life.name for life in SERVING if life.name != "deployment-first"}
"""Lives that begin with a first revision that serves all traffic."""
