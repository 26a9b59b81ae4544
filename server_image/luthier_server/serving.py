"""Runs an engine's ASGI app behind the middleware on a socket, until it is told to end or the engine dies.

Knows no engine: the process that serves a model and the stand-in of the tests both come through here.
On SIGTERM: not ready at once, requests still accepted for `linger_seconds` (gateways learn late), then no new
connection, and what is in flight may end within `drain_seconds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry

from luthier_server.asgi import App
from luthier_server.config import ServerConfig
from luthier_server.counters import Counters
from luthier_server.feedback import Feedback
from luthier_server.health import Prober
from luthier_server.middleware import LuthierMiddleware
from luthier_server.verify import Verified

KEEP_ALIVE_SECONDS = 3700
"""Longer than a gateway keeps an idle connection (Envoy: one hour): who closes first must not be us, or a request
sent at that moment fails and counts against the revision."""


class EngineDiedError(RuntimeError):
    """The engine ended while serving."""


async def serve(
    app: App,
    config: ServerConfig,
    verified: Verified,
    *,
    registry: CollectorRegistry = REGISTRY,
    announce: Callable[[uvicorn.Server], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM.

    Args:
        app: The engine's application.
        config: What to serve.
        verified: Result of `verify`.
        registry: What `/metrics` shows.
        announce: Gets the server object before it runs (an engine may want to end it).

    Raises:
        RefusedError: The template probe found other tokens than the training; nothing was served.
        EngineDiedError: The engine died.
    """
    counters = Counters(revision=config.revision)
    prober = Prober(
        app,
        model=config.served_model_name,
        probes=verified.probes,
        max_model_len=config.max_model_len,
        last_progress=lambda: counters.last_progress,
    )
    await prober.check_template()
    wrapped = LuthierMiddleware(
        app,
        counters=counters,
        health=prober,
        registry=registry,
        offered=offered_models(config),
        answer_format=verified.answer_format,
        forbidden=config.forbidden_texts,
        feedback=Feedback(config.feedback, counters=counters) if config.feedback is not None else None,
        clock=time.monotonic,
    )
    server = uvicorn.Server(_uvicorn_config(wrapped, config))
    # Signals are ours: uvicorn would stop listening at once.
    server.capture_signals = contextlib.nullcontext
    announce(server)
    await _run(server, prober, linger_seconds=config.linger_seconds)


def offered_models(config: ServerConfig) -> frozenset[str]:
    return frozenset(filter(None, (config.served_model_name, config.base_model_name)))


async def _run(server: uvicorn.Server, prober: Prober, *, linger_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    serving = asyncio.create_task(server.serve())
    probing = asyncio.create_task(prober.run())
    ending = asyncio.create_task(told_to_end.wait())
    await asyncio.wait((serving, probing, ending), return_when=asyncio.FIRST_COMPLETED)
    prober.drain()
    if told_to_end.is_set():
        await asyncio.wait((serving,), timeout=linger_seconds)
    server.should_exit = True
    await serving
    if probing.done():
        probing.result()
    for task in (probing, ending):
        task.cancel()
    if not told_to_end.is_set():
        raise EngineDiedError("the engine died; its log above says why")


def _uvicorn_config(app: App, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        access_log=False,
        log_level="info",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=config.drain_seconds,
    )
