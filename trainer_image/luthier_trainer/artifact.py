"""The artifact's format: digest, luthier.json, probes. Written by the trainer, checked by server and evaluator.

No torch here. `modelDigest` is sha256 over a canonical sorted list of (path, size, sha256) of everything that
shapes answers, and the base model's digest; reports, the card and luthier.json stay outside (docs/artifact.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

MANIFEST = "luthier.json"
"""Written last: an artifact without it is not complete."""
CHAT_TEMPLATE = "chat_template.jinja"
DIGESTED_NAMES = (
    "adapter_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
_CHUNK = 1 << 20


class Probe(BaseModel):
    """A conversation and the token ids that it must render to (with the generation prompt)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[dict[str, str], ...]
    token_ids: tuple[int, ...]


class ArtifactManifest(BaseModel):
    """luthier.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_digest: str
    base_digest: str
    base_uri: str
    dataset_digest: str
    training_digest: str
    job_name: str
    job_uid: str
    lora_rank: int
    render: str
    probes: tuple[Probe, ...] = ()
    metrics: dict[str, Any] = {}
    versions: dict[str, str] = {}
    created_at: str = ""


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def is_digested(name: str) -> bool:
    """Tell whether a file of this name shapes answers."""
    return name in DIGESTED_NAMES or name.endswith(".safetensors")


def digest_entries(entries: Iterable[tuple[str, int, str]], *, base_digest: str = "") -> str:
    """Return `sha256:<hex>` over (path, size, sha256) entries in canonical order."""
    canonical = json.dumps([base_digest, sorted(entries)], separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def digest_folder(folder: Path, *, base_digest: str = "") -> str:
    """Return the digest of a model folder.

    Args:
        folder: A base model or an artifact.
        base_digest: The base's digest when the folder is an adapter, else empty.

    Raises:
        FileNotFoundError: The folder holds no weights.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and is_digested(p.name))
    if not any(p.name.endswith(".safetensors") for p in files):
        raise FileNotFoundError(f"{folder}: no .safetensors file there; only safetensors weights are used")
    return digest_entries(((p.name, p.stat().st_size, sha256_file(p)) for p in files), base_digest=base_digest)
