"""What one serving process has counted: the numbers that analysis judges a revision by.

Plain data, no ASGI, no Prometheus, no clock: callers pass `now` (monotonic seconds) and call from one event loop.
Every number only grows, except the ages of what is in flight. A request counts as slow as soon as its *age* has
passed an edge, finished or not, so a server that hangs does not look fast.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, get_args

Outcome = Literal["ok", "server_error", "refused", "stream_broken", "overloaded", "client_abort", "unauthorised"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SEVERITIES = ("critical",)
Rating = Literal["up", "down"]
RATINGS: tuple[Rating, ...] = get_args(Rating)
VOTE_REFUSALS = ("malformed", "identity", "signature", "expired", "double", "capped", "no_key")
"""Why a vote was not counted."""

EDGES = tuple(0.01 * 1.2 ** (i / 2) for i in range(121))
"""Seconds, 0.01 to 563: steps of 9.5 %, so that "20 % slower" is two edges anywhere on the scale."""
TOKEN_EDGES = tuple(0.001 * 1.2 ** (i / 2) for i in range(101))
"""The same steps for the time per output token, which on a GPU lies well below 10 ms."""


def edge_label(edge: float) -> str:
    return f"{edge:.4g}"


class Histogram:
    """Counts of observations between edges; the last count is of those above all edges."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Return how many observations are at most each edge, and at the end how many there are."""
        return list(accumulate(self.counts))

    def above(self) -> list[int]:
        """Return how many observations are above each edge."""
        *at_most, observations = self.cumulative()
        return [observations - n for n in at_most]


@dataclass(kw_only=True)
class Timing:
    """When the parts of an answer came, in seconds; None where a request has no such part."""

    first_token: float | None = None
    per_token: float | None = None


@dataclass(kw_only=True)
class Counters:
    """The counters of one process. `start` gives a ticket, and each ticket is finished once."""

    revision: str
    started: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    checked: int = 0
    invalid: int = 0
    refusals: int = 0
    """Answers in which the model declined."""
    votes: dict[str, dict[Rating, int]] = field(default_factory=dict)
    """By the revision that gave the answer, this one or another; empty: none are taken."""
    refused_votes: dict[str, int] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEVERITIES, 0))
    first_token: Histogram = field(default_factory=lambda: Histogram(EDGES))
    per_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_EDGES))
    last_progress: float = float("-inf")
    """When the engine last gave any part of an answer to anybody."""
    _durations: Histogram = field(default_factory=lambda: Histogram(EDGES))
    _in_flight: dict[int, float] = field(default_factory=dict)
    _starts: deque[float] = field(default_factory=deque)
    """When the requests of the last ten minutes began: all that are younger than the last edge."""

    def start(self, now: float) -> int:
        self.started += 1
        self._in_flight[self.started] = now
        self._starts.append(now)
        while self._starts[0] < now - EDGES[-1]:
            self._starts.popleft()
        return self.started

    def finish(self, ticket: int, outcome: Outcome, *, now: float, timing: Timing) -> None:
        self._durations.add(now - self._in_flight.pop(ticket))
        self.outcomes[outcome] += 1
        if timing.first_token is not None:
            self.first_token.add(timing.first_token)
        if timing.per_token is not None:
            self.per_token.add(timing.per_token)

    def count_checked(self, *, valid: bool) -> None:
        self.checked += 1
        self.invalid += not valid

    def count_refusal(self) -> None:
        self.refusals += 1

    def offer_votes(self) -> None:
        """Show from now on that votes are taken: series begin with 0."""
        self.votes.setdefault(self.revision, dict.fromkeys(RATINGS, 0))
        self.refused_votes = dict.fromkeys(VOTE_REFUSALS, 0) | self.refused_votes

    def count_vote(self, revision: str, rating: Rating) -> None:
        self.votes.setdefault(revision, dict.fromkeys(RATINGS, 0))[rating] += 1

    def refuse_vote(self, reason: str) -> None:
        self.refused_votes[reason] += 1

    def count_incident(self) -> None:
        self.incidents["critical"] += 1

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def oldest(self, now: float) -> float:
        """Return the age of the oldest request in flight. Tickets are kept in the order of their start."""
        return now - next(iter(self._in_flight.values()), now)

    def age_exceeded(self, now: float) -> list[int]:
        """Return for each of EDGES how many requests have lived longer, finished or not."""
        alive = Histogram(EDGES)
        for start in self._in_flight.values():
            alive.add(now - start)
        return [done + living for done, living in zip(self._durations.above(), alive.above(), strict=True)]

    def aged(self, now: float) -> list[int]:
        """Return for each of EDGES how many requests began longer ago, finished or not.

        Out of exactly these, `age_exceeded` lived longer: younger ones are not known to be fast yet.
        """
        younger = len(self._starts)
        return [self.started - (younger - bisect_left(self._starts, now - edge)) for edge in EDGES]
