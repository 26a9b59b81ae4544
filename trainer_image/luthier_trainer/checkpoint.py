"""Checkpoints that are complete or absent: `step-<N>.<attempt>/` with COMPLETE written last.

COMPLETE lists every file with size and xxh3 hash, the world size, the ZeRO stage, the step, and whose run it is;
readers trust only what it lists. What the files mean is the training loop's business. No torch here.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from luthier_trainer.errors import Superseded, UserError
from luthier_trainer.files import read_json, sync, write_atomic

COMPLETE = "COMPLETE"
CLAIM = "ATTEMPT"
_FOLDER = re.compile(r"step-(\d+)\.(\d+)")
_CHUNK = 1 << 20
logger = logging.getLogger(__name__)


class FileRecord(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    xxh3: str


class Marker(BaseModel):
    """COMPLETE."""

    model_config = ConfigDict(frozen=True)

    step: int
    attempt: int
    job_uid: str
    config_digest: str
    world_size: int
    zero_stage: int
    data_position: int
    """Rows of the run's order that are trained."""
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    marker: Marker


@dataclass(frozen=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run, seen by one attempt."""

    folder: Path
    attempt: int
    job_uid: str
    config_digest: str
    keep: int

    def claim(self) -> None:
        """Take the run over from older attempts, and remove what they left half-written.

        Raises:
            Superseded: A newer attempt already has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.check_claim()
        write_atomic(self.folder / CLAIM, f"{self.attempt}\n")
        for path in self.folder.iterdir():
            # Attempts run one after the other: what isn't complete now never will be.
            if path.is_dir() and not (path / COMPLETE).is_file():
                logger.info("removing the half-written checkpoint %s", path.name)
                shutil.rmtree(path)

    def check_claim(self) -> None:
        """Refuse to go on when a newer attempt has claimed the run."""
        owner = read_json(self.folder / CLAIM)
        if isinstance(owner, int) and owner > self.attempt:
            raise Superseded(f"attempt {owner} has taken over from attempt {self.attempt}")

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step}.{self.attempt}"

    def newest(self, *, world_size: int, zero_stage: int) -> Checkpoint | None:
        """Return the newest whole checkpoint of this run; damaged and foreign ones are passed over.

        Raises:
            UserError: It was written by another number of processes or another ZeRO stage.
        """
        for path in self._by_age():
            checkpoint = self._open(path)
            if checkpoint is None:
                continue
            shape = (checkpoint.marker.world_size, checkpoint.marker.zero_stage)
            if shape != (world_size, zero_stage):
                raise UserError(
                    "WorldSizeChanged",
                    f"{path.name} was written by {shape[0]} processes with ZeRO stage {shape[1]}, and this attempt has "
                    f"{world_size} with stage {zero_stage}; start a new FineTuneJob for another shape",
                    field="distributed.numProcPerNode",
                )
            return checkpoint
        return None

    def seal(self, path: Path, marker: Marker) -> None:
        """Make a written checkpoint complete, then remove the oldest ones beyond `keep`."""
        self.check_claim()
        write_atomic(path / COMPLETE, marker.model_dump_json())
        sync(self.folder)
        for old in self._by_age()[self.keep :]:
            # Unmark first: a removal that is cut short must not leave a marker on missing files.
            (old / COMPLETE).unlink()
            shutil.rmtree(old)

    def _by_age(self) -> list[Path]:
        """Complete ones, newest first."""
        found = [(int(m[1]), int(m[2]), p) for p in self.folder.iterdir() if (m := _FOLDER.fullmatch(p.name))]
        return [path for _, _, path in sorted(found, reverse=True) if (path / COMPLETE).is_file()]

    def _open(self, path: Path) -> Checkpoint | None:
        try:
            marker = Marker.model_validate_json((path / COMPLETE).read_bytes())
        except ValidationError:
            logger.warning("passing over %s: its marker can't be read", path.name)
            return None
        if (marker.job_uid, marker.config_digest) != (self.job_uid, self.config_digest):
            logger.warning("passing over %s: it belongs to another run", path.name)
            return None
        damaged = next((f.path for f in marker.files if not _is_intact(path, f)), None)
        if damaged is not None:
            logger.warning("passing over %s: %s is missing or damaged", path.name, damaged)
            return None
        return Checkpoint(path=path, marker=marker)


def list_files(folder: Path) -> list[Path]:
    """Return a checkpoint's files in an order that all processes share."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def record_files(folder: Path, files: Iterable[Path]) -> list[FileRecord]:
    """Flush files to the disk and hash them; each process does its share."""
    records = []
    for file in files:
        sync(file)
        records.append(FileRecord(path=str(file.relative_to(folder)), size=file.stat().st_size, xxh3=hash_file(file)))
    return records


def sync_folders(folder: Path) -> None:
    """Flush the names of a checkpoint's files to the disk."""
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync(path)


def hash_file(path: Path) -> str:
    """Return a file's xxh3 hash."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _is_intact(folder: Path, record: FileRecord) -> bool:
    path = folder / record.path
    return path.is_file() and path.stat().st_size == record.size and hash_file(path) == record.xxh3


def share_of(files: Sequence[Path], *, rank: int, world_size: int) -> Sequence[Path]:
    """Return the files that this process flushes and hashes."""
    return files[rank::world_size]
