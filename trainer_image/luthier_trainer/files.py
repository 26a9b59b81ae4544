"""Files that are whole or absent: fsync, atomic rename, JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leads_out(path: Path) -> bool:
    """Tell whether a path is a link out of the folder in which it stands: out of the claim, perhaps."""
    return not path.resolve().is_relative_to(path.parent.resolve())


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def dump_json(value: Any) -> str:
    """Return JSON for people and diffs: sorted, indented, with a final newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def canonical_json(value: Any) -> bytes:
    """Return the one byte string that stands for a JSON value; input of digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_json(path: Path) -> Any:
    """Return a file's JSON, or None when it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
