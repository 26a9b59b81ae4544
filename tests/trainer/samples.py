"""Made-up training rows."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

TEAMS = ("billing", "repair", "shipping", "login")


def ticket_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Different short tickets, each with the team that it names as the answer."""
    rng = random.Random(seed)
    return [
        {
            "messages": [
                {
                    "role": "user",
                    "content": f"ticket {number} for {(team := rng.choice(TEAMS))}{' please' * (number % 4)}",
                },
                {"role": "assistant", "content": json.dumps({"team": team})},
            ]
        }
        for number in range(count)
    ]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_unreadable(path: Path) -> None:
    """Take all rights to a file or folder away; where that does not bind us, as root, there is nothing to test."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def read_log(config: Any) -> list[dict[str, Any]]:
    """The training log of a published artifact."""
    return [json.loads(line) for line in (Path(config.artifact_dir) / "training_log.jsonl").read_text().splitlines()]


def whole_tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}
