"""The engine as an OpenAI client sees it: one answer per request, with patience for an engine that starts again."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import httpx

logger = logging.getLogger(__name__)

READY_PATH = "/luthier/ready"
_CASE_ERRORS = frozenset({400, 413, 422})
"""The engine says that it will never answer this prompt (too long, for example): a wrong answer, not a fault."""
_ERROR_CHARS = 300


class EngineNotReady(Exception):
    """The engine did not become ready in time."""


class EngineFailed(Exception):
    """The engine gave no answer after all tries; a verdict without it would be a guess."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    ready: float = 900.0
    """A start, or a start again after a crash: weights are loaded and kernels built."""
    answer: float = 900.0
    poll: float = 1.0
    tries: int = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `error` instead of text when the engine refuses this prompt for good."""

    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


class Engine:
    """A client of one engine."""

    def __init__(self, client: httpx.AsyncClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience

    async def wait_ready(self) -> None:
        """Return when the engine can answer.

        Raises:
            EngineNotReady: Not within `patience.ready`.
        """
        deadline = time.monotonic() + self._patience.ready
        said = "no connection"
        while time.monotonic() < deadline:
            try:
                reply = await self._client.get(READY_PATH, timeout=10)
                if reply.status_code == httpx.codes.OK:
                    return
                said = f"{reply.status_code} {reply.text[:_ERROR_CHARS]}"
            except httpx.TransportError as error:
                said = type(error).__name__
            await asyncio.sleep(self._patience.poll)
        raise EngineNotReady(f"the engine was not ready within {self._patience.ready:g} s; its last word: {said}")

    async def version(self) -> str:
        """Return the engine's version, or nothing when it does not say."""
        try:
            return str((await self._client.get("/version", timeout=10)).json()["version"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return ""

    async def answer(self, path: str, body: dict[str, Any]) -> Answer:
        """Ask once, and again where the engine failed.

        Raises:
            EngineNotReady: It went away and did not come back.
            EngineFailed: It did not answer in all tries, or refuses to answer anybody.
        """
        problem = ""
        for attempt in range(self._patience.tries):
            if attempt:
                logger.warning("asking again, try %d: %s", attempt + 1, problem)
                await asyncio.sleep(self._patience.poll * attempt)
                await self.wait_ready()
            found = await self._ask(path, body)
            if isinstance(found, Answer):
                return found
            problem = found
        raise EngineFailed(f"no answer in {self._patience.tries} tries; the last: {problem}")

    async def _ask(self, path: str, body: dict[str, Any]) -> Answer | str:
        """Return the answer, or what went wrong when it is worth another try."""
        try:
            reply = await self._client.post(path, json=body, timeout=self._patience.answer)
        except httpx.TransportError as error:
            return f"{type(error).__name__} {error}".strip()
        if reply.status_code in _CASE_ERRORS:
            return Answer(error=f"{reply.status_code} {_error_text(reply)}")
        if reply.status_code in (401, 403, 404):
            raise EngineFailed(f"{path} for model {body['model']}: {reply.status_code} {_error_text(reply)}")
        if reply.status_code != httpx.codes.OK:
            return f"{reply.status_code} {_error_text(reply)}"
        try:
            return _answer(reply.json())
        except (ValueError, LookupError, TypeError) as error:
            return f"a reply that is no completion ({type(error).__name__})"


def _answer(reply: dict[str, Any]) -> Answer:
    choice = reply["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if text is not None and not isinstance(text, str):
        raise TypeError("content is not text")
    usage = reply.get("usage") or {}
    return Answer(
        text=text or "",
        finish=str(choice.get("finish_reason")),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )


def _error_text(reply: httpx.Response) -> str:
    try:
        error = reply.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        text = reply.text
    return str(text)[:_ERROR_CHARS]
