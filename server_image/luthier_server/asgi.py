"""The ASGI types that this package uses, and replies made by hand. No framework: a dict and a few bytes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"


async def reply(send: Send, status: int, body: bytes, *, content_type: bytes = JSON) -> None:
    """Send one whole response."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def reply_json(send: Send, status: int, content: object) -> None:
    await reply(send, status, json.dumps(content, separators=(",", ":")).encode())


async def reply_error(send: Send, status: int, *, kind: str, message: str) -> None:
    """Send an error in OpenAI's shape, so that clients' libraries show the message."""
    await reply_json(send, status, {"error": {"message": message, "type": kind, "param": None, "code": status}})
