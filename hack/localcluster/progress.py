"""Say on standard error what is going on and how far it is: `[3/9] Starting the node … 4.2 s`.

Standard output stays free for what a shell reads (`env`, `kubeconfig`).
"""

import contextlib
import sys
import time
from collections.abc import Iterator


class Progress:
    """Numbered steps. `quiet` prints nothing: for tests that start clusters themselves."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._total = total
        self._done = 0
        self._quiet = quiet
        self._line_is_open = False

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        self._done += 1
        self._print(f"[{self._done}/{self._total}] {text} …", stay_on_line=True)
        started = time.monotonic()
        yield
        seconds = f"{time.monotonic() - started:.1f} s"
        self._print(f" {seconds}" if self._line_is_open else f"      done in {seconds}")

    def detail(self, text: str) -> None:
        """Add a line below the running step: something slow, or something that the user should know."""
        if self._line_is_open:
            self._print("")
        self._print(f"      {text}")

    def _print(self, text: str, *, stay_on_line: bool = False) -> None:
        if not self._quiet:
            print(text, end="" if stay_on_line else "\n", file=sys.stderr, flush=True)
        self._line_is_open = stay_on_line
