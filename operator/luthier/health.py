"""/healthz, /readyz and /metrics of the operator itself.

A standby is healthy and ready: it watches, and takes over. A watch that is dead is not healthy, unless it is the API
server that is away: then a restart would help nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import generate_latest

from luthier.metrics import Metrics

DEAD_SECONDS = 300.0
"""A watch that nobody heard of for so long is dead: supervisors mend it well before."""
TROUBLE_SECONDS = 120.0

Refresh = Callable[[], None]
"""Brings gauges up to date before they are read."""


def complaint(ages: Mapping[str, float], since_trouble: float) -> str | None:
    """Return what is wrong with the watches, or None.

    Args:
        ages: Seconds since each watch was last heard of.
        since_trouble: Seconds since a request to the API server got no usable answer.
    """
    dead = sorted(name for name, age in ages.items() if age > DEAD_SECONDS)
    if not dead or since_trouble < TROUBLE_SECONDS:
        return None
    return f"nothing was heard for {DEAD_SECONDS:.0f} s of: {', '.join(dead)}"


class Health:
    """The HTTP server; asks, and decides nothing."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        refresh: Refresh,
        unhealthy: Callable[[], str | None],
        unready: Callable[[], str | None],
    ) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._unhealthy = unhealthy
        self._unready = unready
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` 0 takes any free one, readable afterwards."""
        app = web.Application()
        app.router.add_get("/healthz", self._answer(self._unhealthy))
        app.router.add_get("/readyz", self._answer(self._unready))
        app.router.add_get("/metrics", self._report)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _answer(self, ask: Callable[[], str | None]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(_request: web.Request) -> web.Response:
            wrong = ask()
            return web.Response(status=503 if wrong else 200, text=f"{wrong or 'ok'}\n")

        return handler

    async def _report(self, _request: web.Request) -> web.Response:
        self._refresh()
        return web.Response(
            body=generate_latest(self._metrics.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )
