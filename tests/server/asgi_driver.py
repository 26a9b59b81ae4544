"""Drives an ASGI app in this process: sends one request, keeps what comes back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Reply:
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    finished: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self):
        return json.loads(self.body)


class Client:
    """One HTTP request to an app. `leave()` is the client's disconnect."""

    def __init__(self, app, *, method="POST", path="/v1/chat/completions", body=b"", headers=(), pieces=1):
        self.app = app
        self.reply = Reply()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self._pending = _split(body, pieces)
        self._left = asyncio.Event()

    def leave(self):
        self._left.set()

    async def _receive(self):
        if self._pending:
            piece = self._pending.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pending)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.reply.chunks.append(message.get("body", b""))
            self.reply.finished = not message.get("more_body", False)

    async def run(self) -> Reply:
        await self.app(self.scope, self._receive, self._send)
        return self.reply


def _split(body: bytes, pieces: int) -> list[bytes]:
    size = max(1, -(-len(body) // pieces))
    return [body[i : i + size] for i in range(0, len(body), size)] or [b""]


def chat(model="support", **fields) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


async def post(app, *, path="/v1/chat/completions", body=None, **kwargs) -> Reply:
    return await Client(app, path=path, body=chat() if body is None else body, **kwargs).run()


async def get(app, path) -> Reply:
    return await Client(app, method="GET", path=path).run()
