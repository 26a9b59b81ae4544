"""How the pods of Jobs run and end: the kubelet and the containers, played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from faults.world import World, stem
from jobworld import summary
from luthier.naming import ATTEMPT_LABEL, ROLE_LABEL

Json = dict[str, Any]


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
        if ending.hangs or (ending.runs and not is_seen_running(world)):
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


def is_seen_running(world: World) -> bool:
    return summary(job_status(world), "Training") == ("True", "Running") if job_status(world) else False


def job_status(world: World) -> Json:
    status = world.place.status("finetunejobs", "tickets")
    return status if status.get("conditions") else {}


def children(world: World, *plurals: str) -> list[str]:
    return sorted(
        f"{plural}/{stem(child['metadata']['name']) if plural == 'jobs' else child['metadata']['name']}"
        for plural in plurals
        for child in world.place.list(plural)
    )
