"""A wall clock that can be put forward and back in one operator process, while the monotonic clock goes on.

Only in a forked child: what reads the wall clock there from Python reads it through here.
"""

from __future__ import annotations

import datetime as datetimes
import sys
import time
from pathlib import Path
from typing import Any

_REAL = datetimes.datetime


def put_forward(file: Path, seconds: float) -> None:
    """Let the clock of the process that looks at this file be so many seconds ahead; negative: behind."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(file)


def install(file: Path) -> None:
    """Let this process read the wall clock as the file says."""

    def ahead() -> float:
        return float(file.read_text()) if file.exists() else 0.0

    class Kind(type):
        def __instancecheck__(cls, thing: object) -> bool:
            return isinstance(thing, _REAL)

    class Shifted(_REAL, metaclass=Kind):
        @classmethod
        def now(cls, tz: datetimes.tzinfo | None = None) -> Any:
            return _REAL.now(tz) + datetimes.timedelta(seconds=ahead())

        @classmethod
        def utcnow(cls) -> Any:
            return _REAL.now(datetimes.UTC).replace(tzinfo=None) + datetimes.timedelta(seconds=ahead())

    real_time, real_ns = time.time, time.time_ns
    time.time = lambda: real_time() + ahead()
    time.time_ns = lambda: real_ns() + round(ahead() * 1e9)
    datetimes.datetime = Shifted  # type: ignore[misc]
    for name, module in list(sys.modules.items()):  # those that have the class under a name of their own
        if name.partition(".")[0] in ("luthier", "kopf", "kubernetes") and vars(module).get("datetime") is _REAL:
            module.datetime = Shifted  # type: ignore[attr-defined]
