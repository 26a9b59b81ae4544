"""When rollouts may start and get more traffic: cron, a duration and a time zone: pure.

A window opens whenever its schedule fires and stays open for its duration. Several windows are one: any opens it.
Clock changes are treated as Debian's cron does: a fixed hour that is skipped fires right after the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from luthier.api.acts import Window


class BadWindow(ValueError):
    """A window that cannot be read; the message names the field, its value and the way out."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How the windows stand."""

    is_open: bool
    opens_at: datetime | None = None
    """When the next one opens, UTC; None while one is open."""


def look(windows: Sequence[Window], now: datetime) -> Opening:
    """Say whether a window is open, or when the next one opens.

    Raises:
        BadWindow: One cannot be read, or never opens.
    """
    spans = [_span(f"spec.rollout.windows[{i}]", window, now) for i, window in enumerate(windows)]
    if not spans or any(is_open for is_open, _ in spans):
        return Opening(is_open=True)
    return Opening(is_open=False, opens_at=min(opens for _, opens in spans))


def _span(field: str, window: Window, now: datetime) -> tuple[bool, datetime]:
    """Return whether a window is open, and when it opens next."""
    try:
        zone = ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError) as error:
        known = 'write a name of the IANA database, for example "Europe/Berlin"'
        raise BadWindow(f'{field}.timeZone is "{window.time_zone}", which is no time zone: {known}') from error
    here = now.astimezone(zone)
    bad = f'{field}.schedule is "{window.schedule}"'
    try:
        following = next(CronSim(window.schedule, here)).astimezone(UTC)
        # An opening at this very second is over for the search backwards: one second more is harmless.
        last = next(CronSim(window.schedule, here + timedelta(seconds=1), reverse=True), None)
    except (CronSimError, AssertionError, TypeError, ValueError) as error:
        fields = 'write minute, hour, day, month and weekday, for example "0 9 * * MON-FRI"'
        raise BadWindow(f"{bad} ({error}): {fields}") from error
    except StopIteration as error:
        raise BadWindow(f"{bad}, which never comes: write a day that exists") from error
    is_open = last is not None and now < last.astimezone(UTC) + timedelta(seconds=window.duration_seconds)
    return is_open, following
