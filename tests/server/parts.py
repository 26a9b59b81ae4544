"""Engines that behave in one way each, and the middleware around them with a clock set by hand."""

from __future__ import annotations

import asyncio
import json

from prometheus_client import CollectorRegistry

from luthier_server.answers import AnswerFormat
from luthier_server.counters import Counters
from luthier_server.feedback import Feedback
from luthier_server.middleware import LuthierMiddleware


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Healthy:
    reason = None
    alive = True

    def not_ready(self):
        return self.reason

    async def is_alive(self):
        return self.alive


class Setup:
    """The middleware around one engine, and its counters."""

    def __init__(
        self, engine, *, schema=None, offered=("support",), forbidden=(), feedback=None, revision="r7-5f3a9c1b"
    ):
        self.clock = Clock()
        self.wall_clock = Clock()
        self.counters = Counters(revision=revision)
        self.registry = CollectorRegistry()
        self.health = Healthy()
        self.app = LuthierMiddleware(
            engine,
            counters=self.counters,
            health=self.health,
            registry=self.registry,
            offered=offered,
            answer_format=AnswerFormat(json.dumps(schema)) if schema is not None else None,
            forbidden=forbidden,
            feedback=feedback and self._feedback(feedback),
            clock=self.clock,
        )

    def _feedback(self, config):
        return Feedback(config, counters=self.counters, clock=self.clock, wall_clock=self.wall_clock)

    @property
    def outcomes(self):
        """Outcomes that happened at all."""
        return {outcome: n for outcome, n in self.counters.outcomes.items() if n}

    def sample(self, name, **labels):
        return self.registry.get_sample_value(name, {"revision": "r7-5f3a9c1b", **labels})


async def _take_request(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def answering(status=200, content=None, content_type=b"application/json"):
    """An engine that gives one whole reply."""

    async def engine(scope, receive, send):
        await _take_request(receive)
        body = json.dumps(content if content is not None else {}).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return engine


def completion(content, *, finish_reason="stop"):
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}]
    }


def event(content=None, *, role=None, finish_reason=None, usage=None):
    delta = {key: value for key, value in (("role", role), ("content", content)) if value is not None}
    data = {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    if usage is not None:
        data = {"id": "c1", "choices": [], "usage": {"completion_tokens": usage}}
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def streaming(chunks, *, clock=None, step=0.0, end=True, error=None, wait=None):
    """An engine that streams events; `step` seconds pass before each, `wait` is awaited before the end."""

    async def engine(scope, receive, send):
        await _take_request(receive)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            if clock is not None:
                clock().now += step
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if wait is not None:
            await wait.wait()
        if error is not None:
            raise error
        if end:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return engine


def listening_stream(chunks):
    """An engine that streams and then generates until the client leaves, as vLLM's handlers do."""

    async def engine(scope, receive, send):
        await _take_request(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    return engine


def hanging():
    """An engine that never answers until the client leaves."""

    async def engine(scope, receive, send):
        await _take_request(receive)
        while (await receive())["type"] != "http.disconnect":
            pass

    return engine


async def until(condition):
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
