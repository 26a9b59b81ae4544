"""When a window is open, over clock changes too, and what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from luthier.api.acts import Window
from luthier.deployment.windows import BadWindow, look


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(schedule: str, seconds: int = 3600, zone: str = "Etc/UTC") -> Window:
    return Window(schedule=schedule, duration_seconds=seconds, time_zone=zone)


OFFICE = window("0 9 * * MON-FRI", 8 * 3600, "Europe/Berlin")
ROWS = {
    # 2026-01-05 is a Monday; Berlin is UTC+1 in winter, +2 from 2026-03-29 01:00 UTC to 2026-10-25 01:00 UTC.
    "before it opens": ([OFFICE], "2026-01-05T07:59:59", "2026-01-05T08:00:00"),
    "at the second in which it opens": ([OFFICE], "2026-01-05T08:00:00", None),
    "a fraction after": ([OFFICE], "2026-01-05T08:00:00.250", None),
    "in its last second": ([OFFICE], "2026-01-05T15:59:59", None),
    "when it is over": ([OFFICE], "2026-01-05T16:00:00", "2026-01-06T08:00:00"),
    "over the weekend": ([OFFICE], "2026-01-09T16:00:00", "2026-01-12T08:00:00"),
    "in summer, an hour earlier in UTC": ([OFFICE], "2026-07-06T07:00:00", None),
    "over the change to summer": ([OFFICE], "2026-03-27T17:00:00", "2026-03-30T07:00:00"),
    "an hour that the clock leaves out comes right after": (
        [window("30 2 * * *", 3600, "Europe/Berlin")],
        "2026-03-29T00:59:00",
        "2026-03-29T01:00:00",
    ),
    "and is open then": ([window("30 2 * * *", 3600, "Europe/Berlin")], "2026-03-29T01:10:00", None),
    "an hour that comes twice opens once": (
        [window("30 2 * * *", 1800, "Europe/Berlin")],
        "2026-10-25T01:35:00",
        "2026-10-26T01:30:00",
    ),
    "longer than its interval, always open": ([window("0 * * * *", 7200)], "2026-01-05T07:59:59", None),
    "over midnight": ([window("0 22 * * FRI", 8 * 3600)], "2026-01-10T05:59:59", None),
    "any of several": ([OFFICE, window("0 3 * * *")], "2026-01-05T03:30:00", None),
    "the next of several": ([OFFICE, window("0 3 * * *")], "2026-01-05T04:00:00", "2026-01-05T08:00:00"),
    "none at all": ([], "2026-01-05T04:00:00", None),
    "once in a leap year": ([window("0 0 29 2 *")], "2026-01-05T04:00:00", "2028-02-29T00:00:00"),
}


@pytest.mark.parametrize("sentence", ROWS)
def test_windows(sentence):
    windows, now, opens_at = ROWS[sentence]
    opening = look(windows, at(now))
    assert opening.is_open == (opens_at is None)
    assert opening.opens_at == (at(opens_at) if opens_at else None)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (window("61 9 * * *"), ('windows[1].schedule is "61 9 * * *"', "Bad minute", "MON-FRI")),
        (window("0 9 * * FUNDAY"), ("windows[1].schedule", "Bad day-of-week")),
        (window("0 0 31 2 *"), ("windows[1].schedule", "0 0 31 2 *")),
        (window("0 0 L/2 * 1#2/3"), ("windows[1].schedule",)),
        (window("0 9 * * *", zone="Europe/Munich"), ('windows[1].timeZone is "Europe/Munich"', "Europe/Berlin")),
        (window("0 9 * * *", zone="Europe"), ('windows[1].timeZone is "Europe"',)),
    ],
)
def test_a_window_that_cannot_be_read_names_field_value_and_way_out(bad, says):
    with pytest.raises(BadWindow) as raised:
        look([OFFICE, bad], at("2026-01-05T08:00:00"))
    assert [part for part in says if part not in str(raised.value)] == []
