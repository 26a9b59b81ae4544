"""The stand-in's engine: vLLM's paths with made-up answers, in plain ASGI.

A header `x-standin` with JSON overrides the model's behaviour for one request.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from luthier_server.asgi import App, Receive, Scope, Send, reply, reply_error, reply_json
from standin.model import Behaviour, tokens

HEADER = b"x-standin"


class Engine:
    """An ASGI app that answers as `behaviour` says."""

    def __init__(self, behaviour: Behaviour, *, context: int) -> None:
        self._behaviour = behaviour
        self._context = context
        self._seen = 0
        self._paths: dict[str, App] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._chat,
            "/tokenize": self._tokenize,
            "/health": self._health,
            "/version": self._version,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["path"] in self._paths:
            await self._paths[scope["path"]](scope, receive, send)
        else:
            await reply_error(send, 404, kind="NotFoundError", message="no such path")

    @property
    def _dead(self) -> bool:
        return self._behaviour.dies_after is not None and self._seen > self._behaviour.dies_after

    async def _health(self, _: Scope, __: Receive, send: Send) -> None:
        await reply(send, 503 if self._dead else 200, b"")

    async def _version(self, _: Scope, __: Receive, send: Send) -> None:
        await reply_json(send, 200, {"version": "standin"})

    async def _tokenize(self, _: Scope, receive: Receive, send: Send) -> None:
        request = await _read_json(receive)
        found = tokens(request["messages"])
        await reply_json(send, 200, {"count": len(found), "tokens": found})

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await _read_json(receive)
        number, self._seen = self._seen, self._seen + 1
        behaviour = self._overridden(scope)
        size = len(tokens(request.get("messages", [])))
        if size + request.get("max_tokens", 1) > self._context:
            message = f"This model's maximum context length is {self._context} tokens, the request needs more"
            await reply_error(send, 400, kind="BadRequestError", message=message)
            return
        hangs = _hits(behaviour.hang_rate, number)
        if await _client_leaves(receive, within=None if hangs else behaviour.latency_seconds):
            return
        if self._dead or behaviour.never_ready or _hits(behaviour.error_rate, number):
            await reply_error(send, 500, kind="InternalServerError", message="the stand-in was told to fail")
            return
        answer = "this is no JSON" if _hits(behaviour.invalid_rate, number) else behaviour.answer
        broken = _hits(behaviour.broken_rate, number)
        await _answer(send, request, answer, broken=broken, pause=behaviour.chunk_seconds)

    def _overridden(self, scope: Scope) -> Behaviour:
        given = next((value for name, value in scope["headers"] if name == HEADER), None)
        return self._behaviour if given is None else Behaviour.model_validate_json(given)


async def _answer(send: Send, request: dict[str, Any], answer: str, *, broken: bool, pause: float) -> None:
    model = request["model"]
    if request.get("stream"):
        await _stream(send, model, answer, broken=broken, pause=pause)
    elif broken:
        await reply_error(send, 500, kind="InternalServerError", message="the stand-in was told to break")
    else:
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "text": answer, "finish_reason": "stop"}
        await reply_json(send, 200, {"object": "chat.completion", "model": model, "choices": [choice]})


async def _stream(send: Send, model: str, answer: str, *, broken: bool, pause: float) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in answer.split(" ")]
    for i, delta in enumerate(deltas):
        if pause:
            await asyncio.sleep(pause)
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if i == len(deltas) - 1 else None}
        data = json.dumps({"model": model, "choices": [choice]}, separators=(",", ":"))
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
    if not broken:
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _client_leaves(receive: Receive, *, within: float | None) -> bool:
    """Wait, as vLLM does, for the answer's time or the client's disconnect."""

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(disconnect(), within)
    except TimeoutError:
        return False
    return True


async def _read_json(receive: Receive) -> dict[str, Any]:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            content: dict[str, Any] = json.loads(body or b"{}")
            return content


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _hits(rate: float, number: int) -> bool:
    """Tell whether the request of this number is one of those: exactly `rate` of any run of them."""
    return int((number + 1) * rate) > int(number * rate)
