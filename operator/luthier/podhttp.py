"""Small JSON from pods: a short time-out, 64 KiB, no redirects, no proxy. A pod is not trusted."""

from __future__ import annotations

import logging

import aiohttp
import orjson

from luthier.errors import describe
from luthier.plan import Json

log = logging.getLogger(__name__)

SECONDS = 0.5
"""A worker waits meanwhile: where packets to pods are dropped, many trainings must not keep rollbacks waiting."""
MAX_BYTES = 65_536


class PodHttp:
    """One HTTP client for all pods."""

    def __init__(self, *, seconds: float = SECONDS, connections: int = 100) -> None:
        self._seconds = seconds
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def json(self, url: str) -> Json | None:
        """Return the JSON object at a URL; None when there is none, it is too large, or it takes too long."""
        if self._session is None:  # made here: a session belongs to the loop that runs
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._seconds),
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.get(url, allow_redirects=False) as reply:
                data = await _bounded(reply) if reply.status == 200 else b""
                value = orjson.loads(data) if data else None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.debug("%s: %s", url, describe(error))
            return None
        return value if isinstance(value, dict) else None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


async def _bounded(reply: aiohttp.ClientResponse) -> bytes:
    """Read a body, or nothing of one that is too large."""
    data = bytearray()
    async for chunk in reply.content.iter_chunked(16_384):
        data += chunk
        if len(data) > MAX_BYTES:
            reply.close()
            return b""
    return bytes(data)
