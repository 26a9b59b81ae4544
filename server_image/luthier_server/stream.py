"""Reads a server-sent event stream as it passes: did it end, did it break, when did its tokens come.

No JSON is parsed while the stream runs; only the last event, for the engine's own token count, and, when
answers are checked against a schema, the kept events after the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from luthier_server.counters import Timing

KEEP_BYTES = 1 << 20
"""Of an answer that is to be checked. A longer one is not checked."""

_DONE = b"data: [DONE]"
_FINISHED = (_DONE, b"event: response.completed", b"event: response.incomplete")
_BROKEN = (b'data: {"error"', b"event: error", b"event: response.failed")


class EventStream:
    """The events of one response. `keep` stores them for `events`; `told` gets each as it comes."""

    def __init__(self, *, keep: bool = False, told: Callable[[bytes], None] | None = None) -> None:
        self._told = told
        self.ended = False
        self.broken = False
        self.events: list[bytes] | None = [] if keep else None
        self._kept = 0
        self._pending = b""
        self._last = b""
        self._tokens = 0
        self._first_at: float | None = None
        self._last_at = 0.0

    def feed(self, chunk: bytes, now: float) -> None:
        """Take the next bytes; events may be cut anywhere."""
        *events, self._pending = (self._pending + chunk).split(b"\n\n")
        for event in events:
            self._see(event, now)

    def _see(self, event: bytes, now: float) -> None:
        if self._told is not None:
            self._told(event)
        if event.startswith(_FINISHED):
            self.ended = True
        elif event.startswith(_BROKEN):
            self.broken = True
        elif event and not event.startswith(b":") and not _is_structure(event):
            self._see_token(event, now)

    def _see_token(self, event: bytes, now: float) -> None:
        self._last = event
        self._last_at = now
        self._first_at = now if self._first_at is None else self._first_at
        # The first chunk of a chat names the role and carries no token.
        self._tokens += b'"role":"assistant"' not in event
        if self.events is not None:
            self._kept += len(event)
            self.events.append(event)
            if self._kept > KEEP_BYTES:
                self.events = None

    def timing(self, *, started: float) -> Timing:
        """Return the times of this stream for a request that started then."""
        if self._first_at is None:
            return Timing()
        tokens = _completion_tokens(self._last) or self._tokens
        per_token = (self._last_at - self._first_at) / (tokens - 1) if tokens > 1 else None
        return Timing(first_token=self._first_at - started, per_token=per_token)


def _is_structure(event: bytes) -> bool:
    """Tell whether this is an event of /v1/responses that carries no text."""
    return event.startswith(b"event: response.") and b".delta" not in event[:64]


def data_of(event: bytes) -> Any:
    """Return the parsed data of an event, or None when it is not JSON."""
    try:
        return json.loads(event[event.index(b"data: ") + len(b"data: ") :])
    except ValueError:
        return None


def _completion_tokens(event: bytes) -> int | None:
    """Return the engine's own count, when the client asked for usage (the engine sends it last)."""
    if b'"usage":{' not in event:
        return None
    data = data_of(event)
    usage = data.get("usage") if isinstance(data, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None
