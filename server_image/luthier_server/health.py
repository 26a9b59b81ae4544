"""Decides whether this process should get requests: does the engine really generate, with the right template?

Asks the engine's app inside the process, below the middleware: nothing of it is counted, and no client can make
its own requests look like probes. Whether the socket answers is the kubelet's probe to see.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx

from luthier_server.asgi import App
from luthier_server.verify import RefusedError
from luthier_trainer.artifact import Probe

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""Without any part of an answer for so long, generate one token to see whether the engine still does."""
RETRY_SECONDS = 2.0
GENERATE_SECONDS = 120.0
"""A slow answer is judged by the metrics; readiness is lost only when nothing comes from the engine at all."""


class Prober:
    """Readiness and liveness of an engine. `run` keeps them up to date until the engine dies."""

    def __init__(
        self,
        app: App,
        *,
        model: str,
        probes: tuple[Probe, ...],
        max_model_len: int,
        last_progress: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=None)
        self._model = model
        self._probes = probes
        self._last_progress = last_progress
        self._clock = clock
        self._path, self._request = _generation(model, probes, max_model_len)
        self._generated_at = float("-inf")
        self._reason: str | None = "no token has been generated yet"
        self._draining = False

    def not_ready(self) -> str | None:
        return "the process is ending" if self._draining else self._reason

    def drain(self) -> None:
        """Stop being ready, for good."""
        self._draining = True

    async def is_alive(self) -> bool:
        return (await self._client.get("/health")).status_code == 200

    async def check_template(self) -> None:
        """Compare the engine's rendering with the training's.

        Raises:
            RefusedError: A conversation renders to other tokens, so the model would see what it was not trained on.
        """
        for number, probe in enumerate(self._probes):
            body = {"model": self._model, "messages": list(probe.messages), "add_generation_prompt": True}
            reply = await self._client.post("/tokenize", json=body)
            if reply.status_code != 200:
                message = f"probe {number} could not be rendered (HTTP {reply.status_code}): {reply.text[:300]}"
                raise RefusedError("TemplateMismatch", message, field="adapter_path")
            tokens = reply.json()["tokens"]
            if tuple(tokens) != probe.token_ids:
                raise RefusedError("TemplateMismatch", _difference(number, probe, tokens), field="adapter_path")

    async def run(self) -> None:
        """Check again and again; returns when the engine is dead."""
        while await self.is_alive():
            idle = self._clock() - max(self._generated_at, self._last_progress())
            if self._reason is not None or idle >= IDLE_SECONDS:
                await self._generate()
            await asyncio.sleep(RETRY_SECONDS)
        self._reason = "the engine is dead"

    async def _generate(self) -> None:
        begun = self._clock()
        try:
            async with asyncio.timeout(GENERATE_SECONDS):
                reply = await self._client.post(self._path, json=self._request)
        except TimeoutError:
            # Behind a long queue the probe waits like everybody: others' tokens show that the engine works.
            busy = self._last_progress() > begun
            self._set_reason(None if busy else f"no token in {GENERATE_SECONDS:.0f} s")
            return
        if reply.status_code == 200 and _has_choice(reply):
            self._generated_at = self._clock()
            self._set_reason(None)
        else:
            self._set_reason(f"one token could not be generated (HTTP {reply.status_code}): {reply.text[:300]}")

    def _set_reason(self, reason: str | None) -> None:
        if reason != self._reason:
            logger.info("ready" if reason is None else f"not ready: {reason}")
        self._reason = reason


def _generation(model: str, probes: tuple[Probe, ...], max_model_len: int) -> tuple[str, dict[str, Any]]:
    """Return path and body of a one-token request: a real conversation when one fits the context."""
    limits = {"model": model, "max_tokens": 1, "temperature": 0.0}
    shortest = min(probes, key=lambda probe: len(probe.token_ids), default=None)
    if shortest is not None and len(shortest.token_ids) < max_model_len:
        return "/v1/chat/completions", {**limits, "messages": list(shortest.messages)}
    return "/v1/completions", {**limits, "prompt": "ready"}


def _has_choice(reply: httpx.Response) -> bool:
    choices = reply.json().get("choices")
    return isinstance(choices, list) and len(choices) == 1


def _difference(number: int, probe: Probe, tokens: list[int]) -> str:
    pairs = zip(probe.token_ids, tokens, strict=False)
    at = next(
        (i for i, (expected, found) in enumerate(pairs) if expected != found), min(len(tokens), len(probe.token_ids))
    )
    return (
        f"probe {number} renders to {len(tokens)} tokens, not the {len(probe.token_ids)} of the training; they differ "
        f"from token {at} on (trained {list(probe.token_ids[at : at + 5])}, served {tokens[at : at + 5]}). Template or "
        "tokenizer differ between training and serving: publish the artifact again with this server's version"
    )
