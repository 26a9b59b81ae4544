"""An HTTP proxy on loopback between one operator and the API server: counts writes, and breaks what a rule says.

It runs in a thread and loop of its own. The operator speaks plain HTTP to it; it speaks TLS, as the cluster's
administrator, to the API server.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from faults.rules import Rule
from threadserver import ThreadServer

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive"}


@dataclass(frozen=True, kw_only=True)
class Write:
    """A write that was sent, and what became of it; a status of 0: nobody was told."""

    number: int
    method: str
    path: str
    status: int
    body: bytes
    at: float
    """When the server had answered it, on the monotonic clock."""


class FaultProxy(ThreadServer):
    """A proxy for as long as a `with` block lasts."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._server = server
        self._tls = tls
        self._left: list[list[Any]] = []
        """Each rule, and how often it still holds."""
        self.kill: Callable[[], None] = lambda: None
        """Ends the operator's process at once."""
        self.hand: Callable[[], object] = lambda: None
        """What a person does at a write."""
        self.writes: list[Write] = []
        self.fired: list[Rule] = []
        self._count = 0
        self._down = False
        self._streams: dict[int, web.Request] = {}
        self.url = ""

    # For the test's thread

    def outage(self, on: bool) -> None:
        """Let the API server be gone: connections are cut, watches too; or be back."""
        self._loop.call_soon_threadsafe(self._set_outage, on)

    def arm(self, *rules: Rule) -> None:
        """Count writes from here on, and break what these rules say; where they speak of watches, all begin anew."""
        done = threading.Event()

        def reset() -> None:
            self._count = 0
            self.writes.clear()
            self._take(rules)
            done.set()

        self._loop.call_soon_threadsafe(reset)
        assert done.wait(10), "the proxy hangs"

    def join(self, *rules: Rule) -> None:
        """Break what these rules say too, in the middle of a count."""
        self._loop.call_soon_threadsafe(self._take, rules)

    def disarm(self) -> None:
        """Let all rules be over."""
        self._loop.call_soon_threadsafe(self._left.clear)

    def write_kubeconfig(self, path: Path) -> Path:
        """Write what the operator needs to find the API server here."""
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "x", "cluster": {"server": self.url}}],
            "users": [{"name": "x", "user": {"token": "none"}}],
            "contexts": [context],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return path

    # In the proxy's thread

    async def _serve(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(self._server, connector=connector) as self._upstream:
            app = web.Application(client_max_size=16 << 20)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_watch = request.query.get("watch") == "true"
        number = self._number(request)
        rule = self._rule(request, number, is_watch)
        if self._down:
            return _cut(request)
        if rule is not None and (reply := await self._before(rule, request)) is not None:
            return reply
        if is_watch:
            return await self._stream(request, rule)
        # A reader who gives up or dies does not keep a write from being stored: it is seen through, and counted.
        return await asyncio.shield(self._forward(request, body, number, rule))

    async def _forward(
        self, request: web.Request, body: bytes, number: int | None, rule: Rule | None
    ) -> web.StreamResponse:
        async with self._send(request, body) as answer:
            data = await answer.read()
            if number is not None:
                said = {"number": number, "status": answer.status, "body": body, "at": time.monotonic()}
                self.writes.append(Write(method=request.method, path=request.path, **said))
            if rule is not None and rule.act == "hand-after":
                self.kill()
                await asyncio.to_thread(self.hand)
                return _cut(request)
            return self._after(rule, request, answer, data)

    def _take(self, rules: Iterable[Rule]) -> None:
        self._left.extend([rule, rule.times] for rule in rules)
        for request in tuple(self._streams.values()) if any(rule.is_of_watches() for rule in rules) else ():
            _cut(request)  # those that are open would never meet their rule

    def _set_outage(self, on: bool) -> None:
        self._down = on
        for request in tuple(self._streams.values()) if on else ():
            _cut(request)

    def _number(self, request: web.Request) -> int | None:
        if request.method not in WRITES or "/leases" in request.path:
            return None
        self._count += 1
        return self._count

    def _rule(self, request: web.Request, number: int | None, is_watch: bool) -> Rule | None:
        for entry in self._left:
            rule, left = entry
            if rule.matches(request.method, request.path, write=number, is_watch=is_watch):
                if left == 1:
                    self._left.remove(entry)
                entry[1] = left - 1
                self.fired.append(rule)
                return rule
        return None

    async def _before(self, rule: Rule, request: web.Request) -> web.StreamResponse | None:
        if rule.act == "kill-before":
            self.kill()
            return _cut(request)
        if rule.act == "drop":
            return _cut(request)
        if rule.act == "hand-before":
            await asyncio.to_thread(self.hand)
        if rule.act == "delay":
            await asyncio.sleep(rule.seconds)
        if rule.act == "status":
            headers = {"Retry-After": str(rule.retry_after)} if rule.retry_after is not None else {}
            return web.json_response(_status(rule.status), status=rule.status, headers=headers)
        return None

    def _after(
        self, rule: Rule | None, request: web.Request, answer: aiohttp.ClientResponse, data: bytes
    ) -> web.StreamResponse:
        if rule is not None and rule.act == "kill-after":
            self.kill()
            return _cut(request)
        if rule is not None and rule.act == "cut-reply":
            return _cut(request)
        if rule is not None and rule.act == "truncate":
            data = data[: len(data) // 2]
        return web.Response(body=data, status=answer.status, headers=_kept(answer.headers))

    async def _stream(self, request: web.Request, rule: Rule | None) -> web.StreamResponse:
        async with self._send(request, b"") as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            response.enable_chunked_encoding()
            await response.prepare(request)
            self._streams[id(request)] = request
            try:
                async for line in self._lines(answer, rule):
                    await response.write(line)
                    if not line.endswith(b"\n"):
                        return _cut(request)
            except ConnectionResetError:
                pass  # the operator is dead, or was told that we are
            finally:
                del self._streams[id(request)]
            return response

    async def _lines(self, answer: aiohttp.ClientResponse, rule: Rule | None) -> AsyncIterator[bytes]:
        if rule is not None and rule.act == "watch-error":
            yield json.dumps({"type": "ERROR", "object": _status(rule.status)}).encode() + b"\n"
            return
        if rule is not None and rule.act == "watch-silence":
            await asyncio.sleep(rule.seconds)
            return
        last = b""
        while line := await answer.content.readline():
            if rule is not None and rule.act == "watch-cut":
                yield line[: len(line) // 2]
                return
            yield line
            if rule is not None and rule.act == "watch-twice" and last:
                yield last
            last = line

    def _send(self, request: web.Request, body: bytes) -> Any:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP | {"authorization"}}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        return self._upstream.request(
            request.method, request.rel_url, data=body or None, headers=headers, timeout=timeout
        )


def _kept(headers: Any) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in _HOP}


def _cut(request: web.Request) -> web.StreamResponse:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _status(code: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "a fault of the test"}
