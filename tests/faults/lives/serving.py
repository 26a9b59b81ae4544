"""A ModelDeployment's first revision, and what is compared of what serves."""

from __future__ import annotations

from typing import Any

from factories import make_modeldeployment
from faults.lives.life import Kind, Stretch, nobody
from faults.world import World, conditions_of, plain
from luthier.naming import REVISION_LABEL

Json = dict[str, Any]


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
HISTORY = ("revision", "outcome", "reason", "weight")
"""Not the step: a breach may be seen where a weight begins or in the analysis after it, by a second's chance."""


def first_serves(world: World) -> bool:
    return world.stage.condition("Ready") == "True/Initial" and world.stage.weights() == {"r1": 100}


def serving_state(world: World) -> Json:
    obj = world.place.get("modeldeployments", "support")
    assert obj is not None
    status = obj["status"]
    kept = {
        "conditions": conditions_of(status),
        "stable": status.get("stable", {}).get("name"),
        "candidate": status.get("candidate"),
        "rejected": status.get("rejected"),
        "weights": status.get("weights"),
        "route": world.stage.weights(),
        "rules": [len(route["spec"]["rules"]) for route in world.stage.list("httproutes")],
        "history": [tuple(h[k] for k in HISTORY) for h in status.get("history", [])],
        "children": serving_children(world),
    }
    return plain(kept, uid=obj["metadata"]["uid"], namespace=world.place.name)


def serving_children(world: World) -> list[str]:
    found = []
    for plural in ("deployments", "services", "controllerrevisions", "httproutes", "backendtrafficpolicies"):
        for child in world.stage.list(plural):
            revision = child["metadata"].get("labels", {}).get(REVISION_LABEL, "-")
            replicas = child.get("spec", {}).get("replicas", "") if plural == "deployments" else ""
            found.append(f"{plural}/{revision}/{replicas}")
    return sorted(found)


def is_scaled(world: World) -> bool:
    """Say whether the pods of all but the stable are gone."""
    stable = world.stage.stable()
    return all(
        d["spec"]["replicas"] == 0
        for d in world.stage.list("deployments")
        if not d["metadata"]["labels"][REVISION_LABEL].startswith(f"{stable}-")
    )


FIRST = Stretch(begin=begin_first, play=nobody, is_there=first_serves)
SERVED = Kind(
    plural="modeldeployments",
    name="support",
    children=("deployments", "services", "controllerrevisions", "httproutes", "backendtrafficpolicies", "pods"),
)
