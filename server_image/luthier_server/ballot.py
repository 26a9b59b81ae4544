"""Which votes count: each answer once, for seven days, and nobody has more than a twentieth of a revision's votes.

Plain data of one process: no ASGI, no keys. What it remembers is bounded. Other pods and a process after this one
know nothing of it; docs/serving.md says what that means.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from collections import Counter
from typing import Literal

from luthier_server.counters import Counters, Rating
from luthier_server.response_ids import IssuedAnswer

WINDOW_SECONDS = 7 * 24 * 3600
MAX_VOTES = 50_000
"""So many are remembered, about 16 MB. With more, the oldest answers can be voted on no more: that way, forgetting lets
nobody vote twice."""
VOTES_PER_OWN_VOTE = 20
"""One identity has at most a twentieth of a revision's votes; its first always counts."""
MAX_REVISIONS = 64
"""So many are counted by one process: each is a label's value in its metrics."""

Refusal = Literal["expired", "double", "capped"]


class Ballot:
    """The votes that this process has counted."""

    def __init__(self, counters: Counters, *, max_votes: int = MAX_VOTES) -> None:
        self._counters = counters
        self._max_votes = max_votes
        self._votes: list[tuple[int, int, str, int | None]] = []
        """A heap: when the answer was issued, its hash, its revision, the voter's hash."""
        self._known: set[int] = set()
        self._of_revision: Counter[str] = Counter()
        self._of_identity: Counter[tuple[str, int]] = Counter()
        self._closed_until = 0
        """Answers up to then (Unix seconds) may have been voted on and forgotten."""
        self._salt = secrets.token_bytes(16)

    def cast(
        self, answer: IssuedAnswer, id_: str, rating: Rating, *, identity: str | None, now: float
    ) -> Refusal | None:
        """Count a vote on an answer, or return why it does not count. `now` is Unix time; None is nobody known."""
        self._forget(int(now) - WINDOW_SECONDS)
        if answer.issued <= self._closed_until or not self._has_room(answer.revision):
            return "expired"
        vote = self._hash(id_)
        if vote in self._known:
            return "double"
        voter = None if identity is None else self._hash(identity)
        if voter is not None and not self._may_vote(answer.revision, voter):
            return "capped"
        self._remember((answer.issued, vote, answer.revision, voter))
        self._counters.count_vote(answer.revision, rating)
        return None

    def _has_room(self, revision: str) -> bool:
        return revision in self._counters.votes or len(self._counters.votes) < MAX_REVISIONS

    def _may_vote(self, revision: str, voter: int) -> bool:
        allowed = max(1, (self._of_revision[revision] + 1) // VOTES_PER_OWN_VOTE)
        return self._of_identity[revision, voter] < allowed

    def _remember(self, vote: tuple[int, int, str, int | None]) -> None:
        _, hash_, revision, voter = vote
        heapq.heappush(self._votes, vote)
        self._known.add(hash_)
        self._of_revision[revision] += 1
        if voter is not None:
            self._of_identity[revision, voter] += 1
        if len(self._votes) > self._max_votes:
            self._forget(self._votes[0][0])

    def _forget(self, until: int) -> None:
        """Close all answers up to then, and drop what is known of them."""
        self._closed_until = max(self._closed_until, until)
        while self._votes and self._votes[0][0] <= self._closed_until:
            _, hash_, revision, voter = heapq.heappop(self._votes)
            self._known.discard(hash_)
            self._of_revision[revision] -= 1
            if voter is not None:
                self._of_identity[revision, voter] -= 1
                if not self._of_identity[revision, voter]:
                    del self._of_identity[revision, voter]

    def _hash(self, text: str) -> int:
        """Return a hash that means nothing outside of this process: nobody's name is kept."""
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest, "big")
