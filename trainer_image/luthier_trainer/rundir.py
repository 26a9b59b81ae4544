"""The folder that the wrapper and its workers share while a training runs: stop request, progress, outcomes.

Files, not signals: torchrun would pass a SIGTERM on and kill its workers 30 seconds later, and a worker that is still
importing torch has no handler yet. A stop file can't be missed, and the worker looks at it after every step.
"""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from luthier_trainer.config import ProgressReport, StepResult

RUN_DIR_ENV = "LUTHIER_RUN_DIR"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """Paths in the shared folder; on tmpfs or the pod's own disk, never on the claim."""

    path: Path

    @classmethod
    def from_environment(cls) -> RunDir:
        return cls(path=Path(os.environ[RUN_DIR_ENV]))

    def request_stop(self) -> None:
        (self.path / "stop").touch()

    def is_stop_requested(self) -> bool:
        return (self.path / "stop").exists()

    def write_progress(self, progress: ProgressReport) -> None:
        self._write("progress.json", progress.model_dump_json())

    def read_progress(self) -> ProgressReport:
        """Return the newest progress; before the first one, an empty report."""
        try:
            return ProgressReport.model_validate_json((self.path / "progress.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return ProgressReport(step=0, of=0, epoch=0.0)

    def write_outcome(self, rank: int, result: StepResult) -> None:
        self._write(f"outcome.{rank}.json", result.model_dump_json())

    def read_outcome(self) -> StepResult | None:
        """Return what the workers said of the end: a user error first, then the lowest rank's word."""
        found = [StepResult.model_validate_json(p.read_bytes()) for p in sorted(self.path.glob("outcome.*.json"))]
        user_errors = [r for r in found if r.outcome == "UserError"]
        return next(iter(user_errors + found), None)

    def _write(self, name: str, text: str) -> None:
        partial = self.path / f".{name}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path / name)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent is killed: an orphan would go on writing checkpoints."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
