"""What goes into an image: the files its Dockerfile copies, and one hash over all of it.

Only the COPY forms that our Dockerfiles use are understood: plain paths from the context, `--from=` left alone.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from imagebuild.catalog import Image


def content_hash(root: Path, image: Image, base: str, parts: dict[str, str]) -> str:
    """Hash everything that decides what the image is. `parts` are the hashes of the images it uses."""
    text = dockerfile_lines(root / image.dockerfile, image.stage)
    digest = hashlib.sha256("\n".join([base, *(f"{k}={v}" for k, v in sorted(parts.items())), *text]).encode())
    for path in copied_files(root, text):
        digest.update(f"\0{path.relative_to(root)}\0{path.stat().st_mode & 0o777:o}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def dockerfile_lines(path: Path, stage: str = "") -> list[str]:
    """Return the instructions, one a line and without comments, up to the end of `stage` (all of them for "")."""
    lines, inside = [], False
    for line in joined(path.read_text()):
        if line.startswith("FROM ") and inside:
            break
        inside = inside or (bool(stage) and line.upper().endswith(f" AS {stage.upper()}"))
        lines.append(line)
    if stage and not inside:
        raise ValueError(f"{path} has no stage {stage!r}")
    return lines


def joined(text: str) -> Iterator[str]:
    pending = ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        pending += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield pending
            pending = ""


def copied_files(root: Path, lines: list[str]) -> list[Path]:
    """Return the files behind COPY, sorted; a folder stands for all in it but bytecode."""
    found: set[Path] = set()
    for line in lines:
        words = shlex.split(line)
        if words[0] != "COPY" or any(word.startswith("--from=") for word in words):
            continue
        for source in (word for word in words[1:-1] if not word.startswith("--")):
            found.update(files_in(root / source))
    return sorted(found)


def files_in(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise ValueError(f"a Dockerfile copies {path}, which does not exist")
    candidates = path.rglob("*") if path.is_dir() else [path]
    return (file for file in candidates if file.is_file() and "__pycache__" not in file.parts)
