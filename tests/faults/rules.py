"""One fault as plain data: a failing run prints a rule, and the rule can be run again.

`make faults ARGS="--life deployment-rolled-back --rule '{\"act\": \"kill-after\", \"write\": 7}'"`
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

Act = Literal[
    "kill-before",  # the operator dies; the request never leaves
    "kill-after",  # the request is stored; the operator dies before it is answered
    "asleep",  # the operator is dead while the life begins; not the proxy's
    "hand-before",  # a person acts before the write is sent
    "hand-after",  # the write is stored, the operator dies, and a person acts before it starts again
    "drop",  # the connection is cut; the request never leaves
    "cut-reply",  # the request is stored; the connection is cut before it is answered
    "delay",
    "status",  # answered with an error status; the request never leaves
    "truncate",  # the first half of the answer, then the end of the connection
    "watch-error",  # an ERROR event with this status
    "watch-cut",  # the stream ends in the middle of a line
    "watch-silence",  # half open: nothing more comes
    "watch-twice",  # each event comes twice, the older one last
]
STREAM_ACTS = ("watch-error", "watch-cut", "watch-silence", "watch-twice")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What happens to which requests."""

    act: Act
    write: int | None = None
    """The n-th write of the run, from 1; Lease writes are not counted."""
    method: str = ".*"
    path: str = ".*"
    """Regular expressions for the whole method and path."""
    times: int = 1
    """How often; 0: always."""
    status: int = 500
    retry_after: int | None = None
    seconds: float = 1.0

    def matches(self, method: str, path: str, *, write: int | None, is_watch: bool) -> bool:
        """Say whether a request is meant. `write` is its number when it is a write."""
        if self.write is not None and write != self.write:
            return False
        if (self.act in STREAM_ACTS) != is_watch:
            return False
        return bool(re.fullmatch(self.method, method) and re.fullmatch(self.path, path))

    def is_of_watches(self) -> bool:
        """Say whether it is about streams, or about the lists that begin them."""
        return self.act in STREAM_ACTS or self.method == "GET"

    def dump(self) -> str:
        """Return it as JSON, defaults left out."""
        default = asdict(Rule(act=self.act))
        return json.dumps({k: v for k, v in asdict(self).items() if k == "act" or v != default[k]})
