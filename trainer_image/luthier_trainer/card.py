"""The model card: what a reader needs to judge an adapter without asking anybody."""

from __future__ import annotations

from typing import Any

from luthier_trainer.artifact import ArtifactManifest
from luthier_trainer.config import TrainConfig

_CARD = """---
license: {licence}
base_model: {manifest.base_uri}
library_name: peft
tags: [lora, sft, luthier]
---
# {manifest.job_name}

A LoRA adapter for `{manifest.base_uri}`, made by the FineTuneJob `{manifest.job_name}` ({manifest.job_uid}).

## Intended use

For the task of its training data, on the base model named by its digest below; another base is refused by the server.
Nothing is known of it beyond that data and the Evaluations in `evaluations/`: judge it before it is served.

## Data

{data}

## Training

{training}

## Results

{results}

## Identity

{identity}
"""


def render_card(config: TrainConfig, manifest: ArtifactManifest, data_report: dict[str, Any]) -> str:
    """Return README.md."""
    licence = data_report.get("baseModel", {}).get("licence") or "unknown"
    return _CARD.format(
        licence=licence,
        manifest=manifest,
        data=_table(_data(manifest, data_report)),
        training=_table(_training(config)),
        results=_table(dict(manifest.metrics)),
        identity=_table(_identity(manifest, licence)),
    )


def _data(manifest: ArtifactManifest, data_report: dict[str, Any]) -> dict[str, Any]:
    rows, tokens = data_report.get("rows", {}), data_report.get("tokens", {})
    return {
        "data set": manifest.dataset_digest,
        "sources": ", ".join(data_report.get("sources", [])),
        "rows read": rows.get("read"),
        "rows trained on": rows.get("train"),
        "validation rows": rows.get("validation"),
        "held-out rows": rows.get("test"),
        "tokens in one epoch": tokens.get("trainOneEpoch"),
        "longest row": tokens.get("maxLength"),
        "render": manifest.render,
    }


def _training(config: TrainConfig) -> dict[str, Any]:
    return {
        "method": "SFT, LoRA",
        "rank, alpha, dropout": f"{config.rank}, {config.alpha}, {config.dropout}",
        "layers": ", ".join(config.target_modules or ()) or "all linear but the head",
        "epochs": config.epochs,
        "rows per step": config.global_batch_size,
        "learning rate": f"{config.learning_rate}, {config.schedule}, {config.warmup_percent} % warm-up",
        "precision": config.precision,
        "processes": config.num_processes,
        "DeepSpeed": f"ZeRO-{config.deepspeed.zero_stage}" if config.deepspeed else "no",
        "seed": config.seed,
    }


def _identity(manifest: ArtifactManifest, licence: str) -> dict[str, Any]:
    return {
        "modelDigest": manifest.model_digest,
        "base model": manifest.base_digest,
        "training": manifest.training_digest,
        "licence of the base": licence,
        "created": manifest.created_at,
        **{f"version of {name}": value for name, value in manifest.versions.items() if value},
    }


def _table(entries: dict[str, Any]) -> str:
    lines = [f"| {name} | {'—' if value is None else value} |" for name, value in entries.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
