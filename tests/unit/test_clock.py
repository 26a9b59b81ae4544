"""The time of the API server, on clocks of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from luthier.clock import ServerClock

TRUE = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Machine:
    """One machine's clocks; `wrong` is how far its wall clock is off, in seconds."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.wrong = wrong
        self.up = 1000.0
        self.clock = ServerClock(wall=self.wall, monotonic=lambda: self.up)

    def true(self) -> datetime:
        return TRUE + timedelta(seconds=self.up - 1000)

    def wall(self) -> datetime:
        return self.true() + timedelta(seconds=self.wrong)

    def ask(self, *, seconds: float = 0.01) -> None:
        asked_at, told = self.up, format_datetime(self.true().replace(microsecond=0), usegmt=True)
        self.up += seconds
        self.clock.heard(told, asked_at=asked_at)

    def off(self) -> float:
        return abs((self.clock.now() - self.true()).total_seconds())


@pytest.mark.row(7)
@pytest.mark.parametrize("jump", [600, -600])
def test_a_jump_of_the_machines_clock_changes_nothing(jump):
    machine = Machine()
    machine.ask()
    machine.wrong = jump
    machine.up += 30
    assert machine.off() <= 1
    machine.ask()
    assert machine.off() <= 1


@pytest.mark.row(7)
@pytest.mark.parametrize("wrong", [600, -600])
def test_a_machine_that_starts_with_a_wrong_clock_is_right_after_one_reply(wrong):
    machine = Machine(wrong)
    assert machine.off() == 600
    machine.ask()
    assert machine.off() <= 1.01


def test_replies_that_agree_move_nothing_and_a_slow_one_no_further_than_it_must():
    machine = Machine()
    for _ in range(20):
        machine.up += 0.37
        machine.ask()
        assert machine.off() == 0
    machine.ask(seconds=9)
    assert machine.off() == 0


@pytest.mark.parametrize("date", [None, "", "soon", "Thu, 01 Jan 2026 11:00:00 -0000"])
def test_a_reply_without_a_time_changes_nothing(date):
    machine = Machine()
    machine.clock.heard(date, asked_at=machine.up)
    assert machine.off() == 0
