"""Refuses weights that are not what the configuration says, before anything loads them.

Hashes every file that shapes answers, at each start: a stored digest would have to be trusted, and reading the
weights once more costs seconds at most (they must be read anyway, and stay in the page cache).
Loads no model and imports no engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier_server.answers import AnswerFormat
from luthier_server.config import ServerConfig
from luthier_trainer.artifact import CHAT_TEMPLATE, MANIFEST, ArtifactManifest, Probe, digest_folder

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What the engine can be told as the largest rank."""
_GENERATION_CONFIG = "generation_config.json"
_UNSAFE_SUFFIXES = frozenset({".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".so"})


class RefusedError(Exception):
    """What was configured cannot be served, and trying again cannot help. `reason` becomes the condition's."""

    def __init__(self, reason: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Folders that may be loaded."""

    base: Path
    adapter: Path | None
    chat_template: Path | None
    """The artifact's, else the base's; None when neither has one as a file."""
    generation_config: Path
    """The folder whose generation_config.json holds."""
    lora_rank: int
    """The smallest rank that the engine can be told and that holds the adapter."""
    probes: tuple[Probe, ...]
    answer_format: AnswerFormat | None


def verify(config: ServerConfig) -> Verified:
    """Return what may be loaded.

    Raises:
        RefusedError: A folder is missing, incomplete, unsafe or not the configured one, or the response schema is
            none.
    """
    answer_format = _answer_format(config.response_schema) if config.response_schema is not None else None
    base = _folder(config.base_path, field="base_path")
    adapter = _folder(config.adapter_path, field="adapter_path") if config.adapter_path is not None else None
    manifest = _manifest(adapter) if adapter is not None else None
    if manifest is not None:
        config = config if config.base_digest else config.model_copy(update={"base_digest": manifest.base_digest})
        _check_same_base(manifest, config)
    for folder in filter(None, (base, adapter)):
        _check_safe(folder)
    _check_digest(base, expected=config.base_digest, field="base_digest")
    if adapter is not None and manifest is not None:
        expected = config.model_digest or manifest.model_digest
        _check_digest(adapter, expected=expected, field="model_digest", base_digest=config.base_digest)
    elif config.model_digest not in (None, config.base_digest):
        message = f"model_digest {config.model_digest} is given but no adapter_path; name the artifact's folder"
        raise RefusedError("DigestMismatch", message, field="model_digest")
    return Verified(
        base=base,
        adapter=adapter,
        chat_template=_first_file(CHAT_TEMPLATE, adapter, base),
        generation_config=(_first_file(_GENERATION_CONFIG, adapter, base) or base / _GENERATION_CONFIG).parent,
        lora_rank=_lora_rank(adapter, at_least=config.max_lora_rank) if adapter is not None else config.max_lora_rank,
        probes=manifest.probes if manifest is not None else (),
        answer_format=answer_format,
    )


def _answer_format(schema: str) -> AnswerFormat:
    try:
        return AnswerFormat(schema)
    except ValueError as error:
        message = f"response_schema is not a usable JSON Schema: {error}"
        raise RefusedError("InvalidResponseSchema", message, field="response_schema") from None


def _folder(path: str, *, field: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise RefusedError("ModelNotFound", f"{field}: {path} is no folder; check the URI and its claim", field=field)
    return folder


def _manifest(adapter: Path) -> ArtifactManifest:
    path = adapter / MANIFEST
    if not path.is_file():
        message = (
            f"{adapter} has no {MANIFEST}, which a FineTuneJob writes last: the artifact is not complete, or not "
            "one of Luthier's; wait for the job or name another folder"
        )
        raise RefusedError("ArtifactIncomplete", message, field="adapter_path")
    try:
        return ArtifactManifest.model_validate_json(path.read_text())
    except ValidationError as error:
        message = (
            f"{path} cannot be read ({error.error_count()} errors, first: {error.errors()[0]['msg']}); publish again"
        )
        raise RefusedError("ArtifactIncomplete", message, field="adapter_path") from None


def _check_same_base(manifest: ArtifactManifest, config: ServerConfig) -> None:
    if manifest.base_digest != config.base_digest:
        message = (
            f"the adapter was trained on base {manifest.base_digest} ({manifest.base_uri}), but the base to serve is "
            f"{config.base_digest} ({config.base_path}); serve it on its own base, or fine-tune this base"
        )
        raise RefusedError("BaseMismatch", message, field="base_digest")


def _check_safe(folder: Path) -> None:
    """Refuse whatever could run code. The engine is told not to, too; this says so before and by name."""
    unsafe = sorted(p.name for p in folder.iterdir() if p.suffix in _UNSAFE_SUFFIXES)
    if unsafe:
        message = f"{folder} holds {', '.join(unsafe[:5])}: only safetensors and JSON are served; remove it"
        raise RefusedError("UnsafeModel", message)
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        if isinstance(content, dict) and "auto_map" in content:
            message = f"{path} has auto_map, which asks for code from the model's folder; remove it"
            raise RefusedError("UnsafeModel", message)


def _check_digest(folder: Path, *, expected: str, field: str, base_digest: str = "") -> None:
    try:
        found = digest_folder(folder, base_digest=base_digest)
    except OSError as error:
        raise RefusedError("ModelNotFound", f"{folder} cannot be read: {error}", field=field) from None
    if found != expected:
        message = (
            f"{folder} has the digest {found}, not {expected}: its files have changed since; restore them, "
            "or name what is there now by a new evaluation and deployment"
        )
        raise RefusedError("DigestMismatch", message, field=field)


def _first_file(name: str, *folders: Path | None) -> Path | None:
    return next((folder / name for folder in folders if folder is not None and (folder / name).is_file()), None)


def _lora_rank(adapter: Path, *, at_least: int) -> int:
    config = _read_json(adapter / "adapter_config.json")
    rank = config.get("r") if isinstance(config, dict) else None
    if not isinstance(rank, int):
        message = f"{adapter}/adapter_config.json names no rank `r`; publish the adapter again"
        raise RefusedError("ArtifactIncomplete", message, field="adapter_path")
    fitting = [allowed for allowed in LORA_RANKS if allowed >= max(rank, at_least)]
    if not fitting:
        message = (
            f"the adapter's rank {rank} is above {LORA_RANKS[-1]}, the most that the engine serves; train a smaller one"
        )
        raise RefusedError("UnsupportedAdapter", message, field="adapter_path")
    return fitting[0]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RefusedError("ArtifactIncomplete", f"{path} cannot be read: {error}") from None
