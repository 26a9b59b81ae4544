"""A server on loopback with an event loop in a thread of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import asyncio
import threading
from typing import Self


class ThreadServer:
    """Inherited by what serves: `_serve` sets `_ready` once it listens, and ends when `_stop` is set."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), f"the {type(self).__name__} did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        raise NotImplementedError
