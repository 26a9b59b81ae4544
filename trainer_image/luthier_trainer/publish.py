"""Publishing the artifact: built whole in a folder beside its place, then renamed. Format: docs/artifact.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoTokenizer

from luthier_trainer.artifact import CHAT_TEMPLATE, MANIFEST, ArtifactManifest, Probe, digest_folder
from luthier_trainer.card import render_card
from luthier_trainer.config import ArtifactDetails, TrainConfig
from luthier_trainer.errors import UserError
from luthier_trainer.files import dump_json, read_json, sync
from luthier_trainer.published import refuse_occupied
from luthier_trainer.template import stop_token_ids

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "tokenizers", "safetensors")


def staging_folder(config: TrainConfig) -> Path:
    """Return where an attempt builds: beside the artifact, so that the rename stays on one file system."""
    artifact = Path(config.artifact_dir)
    return artifact.with_name(f".{artifact.name}.{config.attempt}.partial")


def remove_stale_stagings(config: TrainConfig) -> None:
    """Remove what this and older attempts left half-built: nobody else ever would."""
    artifact = Path(config.artifact_dir)
    for path in artifact.parent.glob(f".{artifact.name}.*.partial"):
        shutil.rmtree(path)


def publish(
    config: TrainConfig, weights: Path, *, metrics: dict[str, Any], log_history: list[dict[str, Any]]
) -> ArtifactDetails:
    """Build the artifact round the saved adapter and give it its name.

    Args:
        config: The run.
        weights: A folder with what peft saved; used up.
        metrics: How the training ended; recorded, not part of the digest.
        log_history: The Trainer's log.

    Raises:
        UserError: No weights were written, they equal the start, or the place is taken.
    """
    staging, target = weights.parent, Path(config.artifact_dir)
    check_weights(weights / ADAPTER_WEIGHTS)
    (weights / ADAPTER_WEIGHTS).replace(staging / ADAPTER_WEIGHTS)
    (staging / ADAPTER_CONFIG).write_text(normalised_adapter_config(weights / ADAPTER_CONFIG, config.model_uri))
    shutil.rmtree(weights)
    copy_serving_files(Path(config.model_path), staging)
    data_report = json.loads((Path(config.data_dir) / "report.json").read_text(encoding="utf-8"))
    _write_reports(staging, data_report, log_history)
    digest = digest_folder(staging, base_digest=config.base_digest)
    manifest = _manifest(config, digest, data_report["render"], metrics)
    (staging / "README.md").write_text(render_card(config, manifest, data_report), encoding="utf-8")
    (staging / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _settle(staging)
    refuse_occupied(target)
    os.rename(staging, target)  # atomic, and refused when the target holds anything
    sync(target.parent)
    return ArtifactDetails(path=str(target), digest=digest, base_digest=config.base_digest)


def check_weights(path: Path) -> None:
    """Refuse an adapter that is missing, not finite, or still the start: then every B matrix is zero."""
    if not path.is_file():
        raise UserError("ArtifactMissing", "the training ended without writing adapter weights")
    learned = False
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            tensor = tensors.get_tensor(name)
            if not tensor.isfinite().all():
                raise UserError(
                    "NumericalError", f"{name} holds values that are no numbers; lower training.learningRate",
                    field="training.learningRate",
                )  # fmt: skip
            learned = learned or (".lora_B." in name and bool(tensor.any()))
    if not learned:
        raise UserError(
            "WeightsUnchanged",
            "the adapter's weights equal the start: nothing was learned; raise training.learningRate or train longer",
            field="training.learningRate",
        )


def normalised_adapter_config(path: Path, model_uri: str) -> str:
    """Return peft's configuration without what differs between machines and runs."""
    value = json.loads(path.read_text(encoding="utf-8"))
    value["base_model_name_or_path"] = model_uri
    if isinstance(value.get("target_modules"), list):
        value["target_modules"].sort()  # peft keeps a set
    return dump_json(value)


def copy_serving_files(base: Path, staging: Path) -> None:
    """Copy what a server needs to render and to stop as the training did."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, staging / name)
    if (base / CHAT_TEMPLATE).is_file():
        shutil.copyfile(base / CHAT_TEMPLATE, staging / CHAT_TEMPLATE)
    elif isinstance(tokenizer.chat_template, str):
        (staging / CHAT_TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")
    generation = read_json(base / GENERATION_CONFIG) or {}
    # An engine looks into this file only: it must stop at every token that training took for an end.
    generation["eos_token_id"] = sorted(stop_token_ids(base, tokenizer))
    (staging / GENERATION_CONFIG).write_text(dump_json(generation), encoding="utf-8")


def _write_reports(staging: Path, data_report: dict[str, Any], log_history: list[dict[str, Any]]) -> None:
    (staging / "data_report.json").write_text(dump_json(data_report), encoding="utf-8")
    kept = ("step", "loss", "eval_loss", "grad_norm", "learning_rate", "num_input_tokens_seen")
    with (staging / "training_log.jsonl").open("w", encoding="utf-8") as file:
        for entry in log_history:
            if "loss" in entry or "eval_loss" in entry:
                file.write(json.dumps({name: entry[name] for name in kept if name in entry}) + "\n")


def _manifest(config: TrainConfig, digest: str, render: str, metrics: dict[str, Any]) -> ArtifactManifest:
    probes = read_json(Path(config.data_dir) / "probes.json") or []
    versions = {name: _version(name) for name in _LIBRARIES}
    return ArtifactManifest(
        model_digest=digest,
        base_digest=config.base_digest,
        base_uri=config.model_uri,
        dataset_digest=config.dataset_digest,
        training_digest=config.training_digest,
        job_name=config.job_name,
        job_uid=config.job_uid,
        lora_rank=config.rank,
        render=render,
        probes=tuple(Probe.model_validate(probe) for probe in probes),
        metrics=metrics,
        versions={**versions, "python": platform.python_version(), "image": config.image},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _settle(staging: Path) -> None:
    """Make all files readable to a server that runs as another user, and flush them."""
    staging.chmod(0o755)
    for path in staging.iterdir():
        path.chmod(0o644)
        sync(path)
    sync(staging)
