"""The ASGI application around the engine's: what is offered, counted and shown.

Paths that generate are counted; the engine's other paths are offered only where listed here, so that no answer
goes out uncounted (the engine has a dozen more ways to generate). Every reply names the revision that gave it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from luthier_server.answers import AnswerFormat
from luthier_server.asgi import App, Message, Receive, Scope, Send, reply, reply_error, reply_json
from luthier_server.config import REVISION_HEADER
from luthier_server.counters import Counters
from luthier_server.feedback import PATH as FEEDBACK_PATH
from luthier_server.feedback import Feedback
from luthier_server.gate import ModelGate
from luthier_server.metrics import CountersCollector, snapshot
from luthier_server.observe import CHAT_PATH, Observed

COUNTED = frozenset({CHAT_PATH, "/v1/completions", "/v1/responses"})
GATED = frozenset({"/tokenize", "/detokenize"})
"""These name a model too, but generate nothing."""
OPEN = frozenset({"/health", "/version"})


class Health(Protocol):
    """What the middleware asks about the engine."""

    def not_ready(self) -> str | None:
        """Return why no request should be sent here, or None when it is ready."""

    async def is_alive(self) -> bool: ...


class LuthierMiddleware:
    """Wraps the engine's ASGI app. Lifespan passes through; websockets are refused."""

    def __init__(
        self,
        app: App,
        *,
        counters: Counters,
        health: Health,
        registry: CollectorRegistry,
        offered: Collection[str],
        answer_format: AnswerFormat | None = None,
        forbidden: Sequence[str] = (),
        feedback: Feedback | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._gate = ModelGate(app, offered=offered)
        self._counters = counters
        self._health = health
        self._registry = registry
        self._offered = offered
        self._format = answer_format
        self._forbidden = forbidden
        self._feedback = feedback
        self._clock = clock
        self._started_at = round(time.time(), 3)
        self._header = (REVISION_HEADER.encode(), counters.revision.encode("ascii", "replace"))
        self._own: dict[str, Callable[[Send], Awaitable[None]]] = {
            "/luthier/ready": self._ready,
            "/luthier/live": self._live,
            "/luthier/counters": self._show_counters,
            "/metrics": self._metrics,
            "/v1/models": self._models,
        }
        registry.register(CountersCollector(counters, clock=clock, started_at=self._started_at))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve_http(scope, receive, self._with_revision(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD") and path in self._own:
            await self._own[path](send)
        elif method == "POST" and path in COUNTED:
            observed = Observed(
                self._counters,
                path=path,
                answer_format=self._format,
                clock=self._clock,
                forbidden=self._forbidden,
            )
            await observed.run(self._gate, scope, receive, self._with_response_id(send))
        elif method == "POST" and path == FEEDBACK_PATH and self._feedback is not None:
            await self._feedback(scope, receive, send)
        elif method == "POST" and path in GATED:
            await self._gate(scope, receive, send)
        elif method in ("GET", "HEAD") and path in OPEN:
            await self._app(scope, receive, send)
        else:
            await reply_error(send, 404, kind="NotFoundError", message=f"{method} {path[:200]} is not offered here")

    def _with_revision(self, send: Send) -> Send:
        async def send_with_revision(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        return send_with_revision

    def _with_response_id(self, send: Send) -> Send:
        """Give a good answer an id to vote by: in the header, so before the first byte of a stream."""
        feedback = self._feedback
        if feedback is None:
            return send

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                header = feedback.header()
                message["headers"] = [*message.get("headers", ()), *([header] if header is not None else [])]
            await send(message)

        return send_with_id

    async def _ready(self, send: Send) -> None:
        reason = self._health.not_ready()
        await reply_json(send, 503 if reason else 200, {"ready": reason is None, "reason": reason})

    async def _live(self, send: Send) -> None:
        alive = await self._health.is_alive()
        await reply_json(send, 200 if alive else 503, {"alive": alive})

    async def _show_counters(self, send: Send) -> None:
        await reply_json(send, 200, snapshot(self._counters, now=self._clock(), started_at=self._started_at))

    async def _metrics(self, send: Send) -> None:
        content = generate_latest(self._registry)
        await reply(send, 200, content, content_type=CONTENT_TYPE_LATEST.encode())

    async def _models(self, send: Send) -> None:
        cards = [{"id": name, "object": "model", "owned_by": "luthier"} for name in sorted(self._offered)]
        await reply_json(send, 200, {"object": "list", "data": cards})
