"""Answers on disk: one JSON line per case, appended as it comes, so that a killed run loses at most the line in flight.

Each line carries the hash of everything that shaped it; a line of another run (other weights, prompt, sampling)
is not taken. A torn last line is cut off.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from luthier_eval.config import EvalConfig, SideConfig, SuiteConfig
from luthier_eval.engine import Answer
from luthier_trainer.files import canonical_json


def run_key(config: EvalConfig, suite: SuiteConfig, side: SideConfig) -> str:
    """Return the hash of all that shapes an answer beside the case itself (whose id covers how it is rendered)."""
    shaped_by = [
        config.model_digest,
        config.base_digest,
        config.serving_profile,
        config.image,
        side.model_dump(mode="json"),
        [suite.max_tokens, suite.temperature, suite.seed],
    ]
    return hashlib.sha256(canonical_json(shaped_by)).hexdigest()[:16]


class SampleFile:
    """The answers of one side to one suite. One writer."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.answers = self._load()
        self._file = path.open("ab", buffering=0)

    def _load(self) -> dict[str, Answer]:
        if not self.path.exists():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        answers = {}
        for line in whole.splitlines():
            entry = _parse(line)
            if entry.get("run") == self._key:
                answers[entry["case"]] = Answer(**entry["answer"])
        return answers

    def add(self, case_id: str, answer: Answer) -> None:
        """Write one answer, whole, in one call."""
        entry = {"case": case_id, "run": self._key, "answer": dataclasses.asdict(answer)}
        self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.answers[case_id] = answer

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()


def _parse(line: bytes) -> dict[str, Any]:
    """Return a line's entry, or an empty one where a disk has lost a part of it."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
