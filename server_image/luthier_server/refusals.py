"""Did the model, or a filter behind it, decline to answer? As OpenAI's API says so; texts are not interpreted.

A chat answer has `finish_reason` content_filter or a `refusal` text, one of /v1/responses a part of type refusal.
"""

from __future__ import annotations

import json
import re
from typing import Any

from luthier_server.stream import data_of

_HINT = re.compile(rb'"refusal"\s*:\s*"[^"]|"content_filter"|"type"\s*:\s*"refusal"|"type"\s*:\s*"response\.refusal\.')
"""JSON is parsed only where one of these stands: hardly any answer has one."""


class RefusalWatch:
    """One answer, as it passes."""

    def __init__(self) -> None:
        self.found = False

    def see_event(self, event: bytes) -> None:
        """Take one event of a stream."""
        if not self.found and _HINT.search(event):
            self.found = _is_refusal(data_of(event))

    def see_reply(self, body: bytes) -> None:
        """Take a whole reply."""
        if not self.found and _HINT.search(body):
            try:
                self.found = _is_refusal(json.loads(body))
            except (ValueError, RecursionError):
                return


def _is_refusal(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    if str(data.get("type", "")).startswith("response.refusal."):
        return True
    parts = [part for item in _dicts(data.get("output")) for part in _dicts(item.get("content"))]
    return any(_declines(choice) for choice in _dicts(data.get("choices"))) or any(
        part.get("type") == "refusal" for part in parts
    )


def _declines(choice: dict[str, Any]) -> bool:
    said = [choice.get(name) for name in ("message", "delta")]
    return choice.get("finish_reason") == "content_filter" or any(
        isinstance(message, dict) and isinstance(message.get("refusal"), str) and message["refusal"] for message in said
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
