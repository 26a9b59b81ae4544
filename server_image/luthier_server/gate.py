"""Lets only requests for an offered model through to the engine.

The engine itself would answer a request without `model`, or with the base's internal name, by the base model: a
client would get untuned answers with status 200. Reads the body, so it also bounds its size.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from luthier_server.asgi import (
    App,
    ClientLeftError,
    Message,
    Receive,
    Scope,
    Send,
    TooLargeError,
    read_body,
    reply_error,
)

MAX_BODY_BYTES = 16 << 20


class ModelGate:
    """Passes a POST whose JSON names an offered model; answers any other by itself."""

    def __init__(self, app: App, *, offered: Collection[str]) -> None:
        self._app = app
        self._offered = offered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, limit=MAX_BODY_BYTES)
        except ClientLeftError:
            return
        except TooLargeError:
            message = f"the request's body has more than {MAX_BODY_BYTES} bytes; send less"
            await reply_error(send, 413, kind="BadRequestError", message=message)
            return
        refusal = self._refusal(body)
        if refusal is not None:
            status, kind, message = refusal
            await reply_error(send, status, kind=kind, message=message)
            return
        await self._app(scope, _replay(body, receive), send)

    def _refusal(self, body: bytes) -> tuple[int, str, str] | None:
        offered = ", ".join(sorted(self._offered))
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return 400, "BadRequestError", "the request's body is not JSON"
        model = request.get("model") if isinstance(request, dict) else None
        if not isinstance(model, str) or not model:
            return 400, "BadRequestError", f"the request names no model; set `model` to one of: {offered}"
        if model not in self._offered:
            return 404, "NotFoundError", f"the model {model[:200]!r} is not served here; served: {offered}"
        return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the whole body first and then what the client really does."""
    replayed = False

    async def replaying() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying
