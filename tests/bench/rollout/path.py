"""What the way through the gateway costs against the same pods asked directly: throughput and delay, in turns."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from servingnode.traffic import PATH, QUESTION

BODY = {"model": "support", "messages": QUESTION, "max_tokens": 16}
CONNECTIONS = 16
TURN_SECONDS = 5.0


async def turn(url: str, *, seconds: float = TURN_SECONDS) -> tuple[float, list[float]]:
    """Ask with so many clients, each as soon as it was answered; return requests per second and their delays."""
    delays: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        end = time.monotonic() + seconds

        async def ask() -> None:
            while (began := time.monotonic()) < end:
                async with session.post(url + PATH, json=BODY) as reply:
                    await reply.read()
                    assert reply.status == 200, reply.status
                delays.append(time.monotonic() - began)

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return len(delays) / seconds, delays


def measure(direct: str, gateway: str, *, turns: int = 4) -> dict[str, Any]:
    """Take turns, so that what else the machine does falls on both."""
    rates: dict[str, list[float]] = {"direct": [], "gateway": []}
    delays: dict[str, list[float]] = {"direct": [], "gateway": []}
    for _ in range(turns):
        for name, url in (("direct", direct), ("gateway", gateway)):
            rate, took = asyncio.run(turn(url))
            rates[name].append(rate)
            delays[name] += took
    found = {name: sum(values) / len(values) for name, values in rates.items()}
    quantiles = {name: _quantiles(values) for name, values in delays.items()}
    return {"rates": found, "ratio": found["gateway"] / found["direct"], "delays": quantiles}


def _quantiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
