"""Does an answer contain a text that no answer may: a planted marker, a marker of the system prompt, a secret's form.

Literal texts, no patterns: a search takes time in proportion to the answer, whatever the model writes. What was found
is counted and never logged, kept or sent anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from luthier_server.stream import data_of

_NO_TEXT = frozenset({"id", "role", "type", "object", "finish_reason", "model"})
"""What the engine says, not the model. The prompt is looked at neither: engines repeat it in other fields."""
_ANSWERS = ("choices", "output")
_PARTS = ("choices", "delta")
"""Of a chat's event, and of an event of /v1/responses."""


class SafetyWatch:
    """One answer, as it passes. A text may be cut anywhere between two events of a stream."""

    def __init__(self, forbidden: Sequence[str]) -> None:
        self._forbidden = forbidden
        self._kept = max(map(len, forbidden)) - 1
        self._tails: dict[tuple[str, ...], str] = {}
        self.found = False

    def see_event(self, event: bytes) -> None:
        """Take one event of a stream."""
        data = None if self.found else data_of(event)
        if isinstance(data, dict):
            # The whole answer is repeated at the end of /v1/responses; its parts have passed already.
            part = (str(data.get("output_index", "")), str(data.get("content_index", "")))
            for name in _PARTS:
                self._see(data.get(name), (*part, name))

    def see_reply(self, body: bytes) -> None:
        """Take a whole reply."""
        try:
            data = None if self.found else json.loads(body)
        except ValueError:
            return
        if isinstance(data, dict):
            for name in _ANSWERS:
                self._see(data.get(name), (name,))

    def _see(self, value: Any, path: tuple[str, ...]) -> None:
        for where, text in _texts(value, path):
            seen = self._tails.get(where, "") + text
            self.found = self.found or any(word in seen for word in self._forbidden)
            self._tails[where] = seen[max(0, len(seen) - self._kept) :]


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield all texts below a value, each with where it stands."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _NO_TEXT:
                yield from _texts(inner, (*path, name))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            index = inner.get("index", position) if isinstance(inner, dict) else position
            yield from _texts(inner, (*path, str(index)))
