"""What time it is: the API server's, whatever becomes of the clock of our own machine.

Times in objects are the API server's or ours, and pauses, deadlines and samples are compared with them. A clock that
is put right in the middle of a rollout would end its pauses early, or stretch them by as much. Therefore time goes on
by the monotonic clock, and each reply's Date header holds it to the server's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

_SECOND = timedelta(seconds=1)
_NOTABLE = timedelta(seconds=10)


class ServerClock:
    """Aware UTC. Before the first reply it is the machine's time at the start."""

    def __init__(
        self,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._zero = wall() - timedelta(seconds=monotonic())
        """What time it was when the monotonic clock stood at 0."""

    def now(self) -> datetime:
        """Return the time."""
        return self._zero + timedelta(seconds=self._monotonic())

    def heard(self, date: str | None, *, asked_at: float) -> None:
        """Hold to a reply's Date header: whole seconds, written between question and answer. Others are left out.

        Args:
            date: The header, or None.
            asked_at: When the request was sent, on the monotonic clock.
        """
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if told.tzinfo is None:
            return
        earliest = told - timedelta(seconds=self._monotonic())
        latest = told + _SECOND - timedelta(seconds=asked_at)
        held = min(max(self._zero, earliest), latest)
        if abs(held - self._zero) > _NOTABLE:
            log.warning("the API server's clock counts: it differs by %s s", round((held - self._zero).total_seconds()))
        self._zero = held
