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


class ClientLeftError(Exception):
    """The client hung up before its whole body was here."""


class TooLargeError(Exception):
    """The request's body is larger than allowed."""


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """Return a request's whole body.

    Raises:
        ClientLeftError: There will be no more of it.
        TooLargeError: It has more than `limit` bytes.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


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
