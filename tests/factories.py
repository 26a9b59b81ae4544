"""Valid API objects as the API server would return them: start here, then change what the test is about."""

from __future__ import annotations

import copy
from typing import Any

from luthier.api.base import API_VERSION
from luthier.naming import short_hash

Json = dict[str, Any]


def merged(base: Json, changes: Json) -> Json:
    """Return `base` with `changes` laid over it, dict by dict; None removes a key."""
    out = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def _object(kind: str, spec: Json, *, name: str, namespace: str, generation: int, status: Json | None) -> Json:
    digits = short_hash(f"{kind}/{namespace}/{name}", 32)
    uid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "generation": generation,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    out = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    return out if status is None else {**out, "status": copy.deepcopy(status)}


def make_finetunejob(
    name: str = "tickets", *, namespace: str = "team", generation: int = 1, status: Json | None = None, **spec: Any
) -> Json:
    """Return a FineTuneJob; keywords are laid over its spec (`training={"epochs": 1}`, `workspace=None`)."""
    base = {
        "model": {"uri": "pvc://models/smol"},
        "dataset": {"sources": [{"uri": "pvc://data/tickets.jsonl"}]},
        "output": {"uri": "pvc://artifacts/tickets"},
        "workspace": {"claimName": "work"},
    }
    return _object(
        "FineTuneJob", merged(base, spec), name=name, namespace=namespace, generation=generation, status=status
    )


def make_evaluation(
    name: str = "tickets-eval", *, namespace: str = "team", generation: int = 1, status: Json | None = None, **spec: Any
) -> Json:
    """Return an Evaluation of the FineTuneJob `tickets`; keywords are laid over its spec."""
    base = {
        "target": {"fineTuneJob": {"name": "tickets"}},
        "baselines": [{"name": "base"}, {"name": "prompted", "systemPrompt": "Answer with one JSON object."}],
        "suites": [
            {"name": "held-out", "type": "HeldOut", "metrics": [{"name": "exact", "type": "ExactMatch"}]},
            {
                "name": "general",
                "type": "Regression",
                "datasetUri": "pvc://data/general.jsonl",
                "metrics": [{"name": "f1", "type": "F1"}],
            },
        ],
        "gates": [
            {"suite": "held-out", "metric": "exact", "minPercent": 70},
            {"suite": "held-out", "metric": "exact", "versus": {"baseline": "prompted", "minDifferencePercent": 5}},
        ],
    }
    return _object(
        "Evaluation", merged(base, spec), name=name, namespace=namespace, generation=generation, status=status
    )


def make_modeldeployment(
    name: str = "support", *, namespace: str = "team", generation: int = 1, status: Json | None = None, **spec: Any
) -> Json:
    """Return a ModelDeployment of the FineTuneJob `tickets`; keywords are laid over its spec."""
    base = {
        "model": {"fineTuneJob": {"name": "tickets"}},
        "requireEvaluation": {"name": "tickets-eval"},
        "gateway": {"parentRefs": [{"name": "gateway"}]},
        "rollout": {
            "steps": [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"pause": {"durationSeconds": 10}}],
            "analysis": {"metrics": [{"name": "ErrorRate"}, {"name": "LatencyCeiling", "ceilingSeconds": "10"}]},
            "watchAfterPromotionSeconds": 0,
        },
    }
    return _object(
        "ModelDeployment", merged(base, spec), name=name, namespace=namespace, generation=generation, status=status
    )
