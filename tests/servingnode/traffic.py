"""Clients that never stop, and never try again: every request is remembered with its times, its revision and its end.

Open loop: requests start at a fixed rate whatever becomes of the earlier ones, so a slow server is not spared.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

REVISION_HEADER = "x-luthier-revision"
PATH = "/v1/chat/completions"
QUESTION = [{"role": "system", "content": "Answer as JSON."}, {"role": "user", "content": "My bill is wrong"}]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as its client saw it. Times are monotonic seconds of this process."""

    started: float
    ended: float
    revision: str
    """`r2`; empty where nobody of ours answered."""
    outcome: str
    """`ok`, the HTTP status, `broken` for a stream without its end, or the client's error."""
    streamed: bool = False
    said: str = ""
    """What came with a failure."""


@dataclass(kw_only=True)
class Traffic:
    """Requests to one URL, from a thread of its own."""

    url: str
    rate: float = 20.0
    """Requests per second."""
    streams: float = 0.0
    """Share of them that are streams."""
    behaviour: dict[str, Any] = field(default_factory=dict)
    """Laid over the stand-in's for every request."""
    done: list[Request] = field(default_factory=list)
    open: int = 0

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Start no more, and wait for those that are under way."""
        self._stopped.set()
        self._thread.join(timeout=120)
        assert not self._thread.is_alive(), "requests hang"

    async def _run(self) -> None:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=90)
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            began, number = time.monotonic(), 0
            while not self._stopped.is_set():
                number += 1
                await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))
                streamed = int(number * self.streams) > int((number - 1) * self.streams)
                group.create_task(self._ask(session, streamed=streamed))

    async def _ask(self, session: aiohttp.ClientSession, *, streamed: bool) -> None:
        body = {"model": "support", "messages": QUESTION, "max_tokens": 16, "stream": streamed}
        headers = {"x-standin": json.dumps(self.behaviour)} if self.behaviour and streamed else {}
        started, revision, said = time.monotonic(), "", ""
        self.open += 1
        try:
            async with session.post(self.url + PATH, json=body, headers=headers) as reply:
                revision = reply.headers.get(REVISION_HEADER, "").partition("-")[0]
                text = await reply.text()
                outcome = "ok" if reply.status == 200 else str(reply.status)
                if outcome == "ok" and streamed and not text.rstrip().endswith("data: [DONE]"):
                    outcome = "broken"
                said = "" if outcome == "ok" else f"{dict(reply.headers)} {text[-300:]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome, said = type(error).__name__, str(error)
        self.open -= 1
        self.done.append(
            Request(
                started=started,
                ended=time.monotonic(),
                revision=revision,
                outcome=outcome,
                streamed=streamed,
                said=said,
            )
        )

    # what became of them

    def since(self, at: float) -> list[Request]:
        """Return those that began later and have ended."""
        return [request for request in self.done if request.started >= at]

    def failed(self) -> Counter[str]:
        return Counter(f"{r.revision or '-'} {r.outcome}" for r in self.done if r.outcome != "ok")

    def complaints(self) -> str:
        """Return what the first failures said."""
        failures = [r for r in self.done if r.outcome != "ok"]
        return "\n".join(f"{r.revision or '-'} {r.outcome}: {r.said}" for r in failures[:5])


@contextmanager
def traffic(url: str, **options: Any) -> Iterator[Traffic]:
    """Send requests as long as the block lasts."""
    clients = Traffic(url=url, **options)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()


def share(requests: Iterable[Request], revision: str) -> tuple[int, int]:
    """Return how many of the requests a revision answered, and how many there are."""
    answered = [r for r in requests if r.revision]
    return sum(r.revision == revision for r in answered), len(answered)
