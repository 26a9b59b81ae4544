"""Stand-in models: folders that pass every check of the server and say how the stand-in shall behave.

The behaviour is written into the metadata of a safetensors file without tensors, so another behaviour is another
digest, as with real weights.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from luthier_trainer.artifact import MANIFEST, ArtifactManifest, Probe, digest_folder


class Behaviour(BaseModel):
    """How requests are answered. Rates are met exactly: of 10 requests at 0.2, each fifth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str = '{"label": "billing"}'
    latency_seconds: float = 0.0
    chunk_seconds: float = 0.0
    """Of a stream: before each part."""
    error_rate: float = 0.0
    """HTTP 500."""
    invalid_rate: float = 0.0
    """The answer is not JSON."""
    broken_rate: float = 0.0
    """Streams end without their end; whole replies become HTTP 500."""
    hang_rate: float = 0.0
    """No reply until the client leaves."""
    crash_at_start: bool = False
    never_ready: bool = False
    """Generates nothing but errors."""
    dies_after: int | None = None
    """The engine is dead after so many requests."""


def tokens(messages: list[dict[str, str]]) -> list[int]:
    """Return the stand-in's tokens of a conversation: one a word, and one a message."""
    words = [word for message in messages for word in (message["role"], *message["content"].split())]
    return [zlib.crc32(word.encode()) % 32000 for word in words]


def write_base(folder: Path, *, behaviour: Behaviour | None = None, name: str = "base") -> str:
    """Write a base model; return its digest."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "standin", "name": name}))
    _write_weights(folder / "model.safetensors", behaviour)
    return digest_folder(folder)


def write_artifact(folder: Path, *, base: Path, behaviour: Behaviour | None = None, **manifest: Any) -> str:
    """Write an adapter of `base` as a FineTuneJob would publish it; return its digest."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
    _write_weights(folder / "adapter_model.safetensors", behaviour)
    base_digest = digest_folder(base)
    digest = digest_folder(folder, base_digest=base_digest)
    messages = ({"role": "system", "content": "Answer as JSON."}, {"role": "user", "content": "My bill is wrong"})
    fields = {
        "model_digest": digest,
        "base_digest": base_digest,
        "base_uri": "pvc://models/base",
        "dataset_digest": "sha256:d",
        "training_digest": "sha256:t",
        "job_name": "standin",
        "job_uid": "00000000-0000-0000-0000-000000000000",
        "lora_rank": 16,
        "render": "Chat",
        "probes": (Probe(messages=messages, token_ids=tuple(tokens(list(messages)))),),
    }
    (folder / MANIFEST).write_text(ArtifactManifest(**{**fields, **manifest}).model_dump_json())
    return digest


def read_behaviour(folder: Path) -> Behaviour:
    with (folder / _weights_name(folder)).open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return Behaviour.model_validate_json(header.get("__metadata__", {}).get("standin", "{}"))


def _weights_name(folder: Path) -> str:
    return next(path.name for path in sorted(folder.glob("*.safetensors")))


def _write_weights(path: Path, behaviour: Behaviour | None) -> None:
    header = json.dumps({"__metadata__": {"standin": (behaviour or Behaviour()).model_dump_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
