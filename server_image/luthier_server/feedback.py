"""`POST /v1/feedback`: takes a vote on an answer by the id that its reply carried, whichever pod gave that answer.

    {"id": "<x-luthier-response-id of the reply>", "rating": "up"}

What a vote is worth is `ballot`'s to say, what an id says is `response_ids`'. Comments are not taken: a text that
nobody reads must not look as if somebody did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier_server.asgi import ClientLeftError, Receive, Scope, Send, TooLargeError, read_body, reply_error, reply_json
from luthier_server.ballot import Ballot
from luthier_server.config import RESPONSE_ID_HEADER, FeedbackConfig
from luthier_server.counters import Counters, Rating
from luthier_server.response_ids import KeyFolder, issue, read

PATH = "/v1/feedback"
MAX_BODY_BYTES = 4096
MAX_IDENTITY_LENGTH = 256
_FIELDS = frozenset({"id", "rating", "user"})
_UP = 0.5
"""A rating that is a number from 0 to 1 is an up from here on."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A body that is well formed."""

    id: str
    rating: Rating
    user: str | None


class _RefusedError(Exception):
    """Why a vote does not count; `cause` is the label of the counter of refused votes."""

    def __init__(self, *, status: int, cause: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.message = message


_REFUSALS = {
    "expired": (410, "the answer is older than seven days, or than what this server still remembers"),
    "double": (409, "this answer was voted on already"),
    "capped": (429, "one identity has at most a twentieth of a revision's votes: this one does not count"),
}


class Feedback:
    """Issues the ids of one process' answers and takes votes on any revision's."""

    def __init__(
        self,
        config: FeedbackConfig,
        *,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = KeyFolder(Path(config.key_folder), clock=clock)
        self._identity_header = (config.identity_header or "").lower()
        self._counters = counters
        self._ballot = Ballot(counters)
        self._wall_clock = wall_clock
        counters.offer_votes()

    def header(self) -> tuple[bytes, bytes] | None:
        """Return the header that a good answer carries, with a new id; None while there is no key."""
        key = self._keys.signing
        if key is None:
            return None
        id_ = issue(self._counters.revision, key=key, now=self._wall_clock())
        return RESPONSE_ID_HEADER.encode(), id_.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one vote."""
        try:
            vote = _parse(await read_body(receive, limit=MAX_BODY_BYTES))
            self._cast(vote, self._identity(scope, vote))
        except ClientLeftError:
            return
        except TooLargeError:
            await self._refuse(send, _malformed(413, f"a vote has at most {MAX_BODY_BYTES} bytes"))
        except _RefusedError as refused:
            await self._refuse(send, refused)
        else:
            await reply_json(send, 200, {"object": "feedback", "rating": vote.rating})

    def _cast(self, vote: Vote, identity: str | None) -> None:
        keys = self._keys.verifying
        if not keys:
            raise _RefusedError(status=503, cause="no_key", message="votes cannot be checked at the moment; try again")
        answer = read(vote.id, keys)
        if answer is None:
            raise _RefusedError(
                status=403, cause="signature", message=f"id was issued by no reply's {RESPONSE_ID_HEADER}"
            )
        refusal = self._ballot.cast(answer, vote.id, vote.rating, identity=identity, now=self._wall_clock())
        if refusal is not None:
            status, message = _REFUSALS[refusal]
            raise _RefusedError(status=status, cause=refusal, message=message)

    def _identity(self, scope: Scope, vote: Vote) -> str | None:
        """Return who votes: as the gateway says, where it does, and else as the body says."""
        if not self._identity_header:
            return vote.user
        name = self._identity_header.encode()
        given: list[str] = [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]
        if len(given) > 1:  # one is the client's own: whoever may choose has a name for each vote
            message = f"the header {self._identity_header} came {len(given)} times; the gateway has to replace it"
            raise _RefusedError(status=401, cause="identity", message=message)
        if not given or not given[0]:
            message = f"the header {self._identity_header} names nobody; the gateway sets it for who is logged in"
            raise _RefusedError(status=401, cause="identity", message=message)
        return given[0]

    async def _refuse(self, send: Send, refused: _RefusedError) -> None:
        self._counters.refuse_vote(refused.cause)
        kind = "BadRequestError" if refused.cause == "malformed" else "FeedbackError"
        await reply_error(send, refused.status, kind=kind, message=refused.message)


def _parse(body: bytes) -> Vote:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _malformed(400, "the body is not a JSON object")
    if unknown := sorted(value.keys() - _FIELDS):
        raise _malformed(400, f"unknown field {unknown[0][:40]!r}; a vote has {', '.join(sorted(_FIELDS))}")
    id_, user = value.get("id"), value.get("user")
    if not isinstance(id_, str) or not id_:
        raise _malformed(400, f"id is missing: send the reply's header {RESPONSE_ID_HEADER}")
    if user is not None and not (isinstance(user, str) and 0 < len(user) <= MAX_IDENTITY_LENGTH):
        raise _malformed(400, f"user is not a text of 1 to {MAX_IDENTITY_LENGTH} characters")
    return Vote(id=id_, rating=_rating(value.get("rating")), user=user)


def _rating(value: Any) -> Rating:
    if value in ("up", "down"):
        return "up" if value == "up" else "down"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # not a number is not in between
        raise _malformed(400, 'rating is not "up", "down" or a number from 0 to 1')
    return "up" if value >= _UP else "down"


def _malformed(status: int, message: str) -> _RefusedError:
    return _RefusedError(status=status, cause="malformed", message=message)
