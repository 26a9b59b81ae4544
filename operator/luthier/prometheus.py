"""Reads raw samples from Prometheus: the only module that speaks to it.

One call: a query over `/api/v1/query`, whose range selector (`metric{...}[2m]`) returns the samples as they were
scraped. What they mean is for `luthier.deployment`. No retry here: the next look comes in seconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from luthier.errors import LuthierError
from luthier.ports import Sample

MAX_REPLY_BYTES = 64 * 1024 * 1024


class PrometheusError(LuthierError):
    """No samples could be read; the message names the address."""


def quote(value: str) -> str:
    """Return a label's value as a PromQL string, quotes included."""
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def quote_any(values: tuple[str, ...]) -> str:
    """Return a PromQL string for `=~` that matches exactly one of these values."""
    return quote("|".join(re.sub(r"([^A-Za-z0-9_-])", r"\\\1", value) for value in values))


def select_pods(namespace: str, prefixes: Sequence[str]) -> str:
    """Return the matchers of a namespace's pods whose names begin with one of these."""
    return f"namespace={quote(namespace)},pod=~{quote('(' + '|'.join(prefixes) + ').*')}"


def parse_samples(data: Mapping[str, Any]) -> list[Sample]:
    """Return the samples of a reply's `data`, matrix or vector, NaN and infinity too: their reader must refuse them."""
    kind, result = data.get("resultType"), data.get("result")
    if kind not in ("matrix", "vector") or not isinstance(result, list):
        raise ValueError(f"expected a matrix or a vector, got {kind!r}")
    samples = []
    for series in result:
        labels = {str(k): str(v) for k, v in series["metric"].items()}
        for at, text in series["values"] if kind == "matrix" else [series["value"]]:
            samples.append(Sample(labels=labels, value=float(text), at=float(at)))
    return samples


class PrometheusClient:
    """One Prometheus server, or anything with its query API."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        url: str,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 5.0,
        in_flight: int = 3,
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._slots = asyncio.Semaphore(in_flight)

    async def raw(self, query: str) -> list[Sample]:
        """Return all samples of a query.

        Raises:
            PrometheusError: It is down, slow, or does not understand; the message says which address.
        """
        if not self._url:
            raise PrometheusError("no Prometheus is configured: set LUTHIER_PROMETHEUS_URL (chart: prometheus.url)")
        try:
            # Waiting for one's turn counts too: behind a slow server, it is most of the time.
            async with asyncio.timeout(self._timeout.total), self._slots:
                reply = await self._get(query)
            if reply.get("status") != "success":
                raise PrometheusError(f"Prometheus at {self._url} refused the query: {reply.get('error', 'no reason')}")
            return parse_samples(reply["data"])
        except TimeoutError as error:
            seconds = self._timeout.total
            raise PrometheusError(f"Prometheus at {self._url} did not answer within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise PrometheusError(f"Prometheus at {self._url} cannot be reached: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PrometheusError(
                f"{self._url} does not answer like Prometheus ({error}): check the address"
            ) from error

    async def _get(self, query: str) -> dict[str, Any]:
        # POST: a query that names many edges may be longer than a URL should be.
        async with self._session.post(
            f"{self._url}/api/v1/query",
            data={"query": query},
            headers=self._headers,
            timeout=self._timeout,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise ValueError("the reply is larger than 64 MiB")
            return _decode(bytes(body), response.status)


def _decode(body: bytes, status: int) -> dict[str, Any]:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"HTTP {status}, no JSON") from error
    if not isinstance(reply, dict):
        raise ValueError(f"HTTP {status}, JSON but no object")
    return reply
