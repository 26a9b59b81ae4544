"""Who holds the Lease, on a clock of the test's own."""

import pytest

from luthier.lease import Hold


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def lease(holder, version, seconds=15):
    return {
        "metadata": {"resourceVersion": str(version)},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds},
    }


def make():
    clock = Clock()
    return Hold("us", clock=clock), clock


def test_a_missing_an_empty_and_our_own_record_may_be_taken():
    hold, _ = make()
    assert hold.may_take(None)
    assert hold.may_take(lease("", 1))
    assert hold.may_take(lease("us", 1))


def test_another_holders_record_is_left_alone_until_it_stood_still_for_its_whole_duration():
    hold, clock = make()
    assert not hold.may_take(lease("them", 1))
    clock.now += 14.9
    assert not hold.may_take(lease("them", 1))
    clock.now += 0.1
    assert hold.may_take(lease("them", 1))


def test_each_renewal_that_is_seen_starts_the_wait_again():
    hold, clock = make()
    for version in range(1, 5):
        assert not hold.may_take(lease("them", version))
        clock.now += 14
    assert not hold.may_take(lease("them", 5))


@pytest.mark.row(7)
def test_times_in_the_record_are_never_compared():
    hold, clock = make()
    ancient = lease("them", 1)
    ancient["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not hold.may_take(ancient)
    clock.now += 1
    assert not hold.may_take(ancient)


@pytest.mark.row(6)
def test_work_and_writes_stop_seven_seconds_after_the_last_renewal_was_asked_for():
    hold, clock = make()
    assert not hold.is_held()
    hold.renewed(asked_at=clock.now)
    clock.now += 6.9
    assert hold.is_held()
    assert 0 < hold.seconds_left() < 0.2
    clock.now += 0.1
    assert not hold.is_held(), "5 of the 12 s are left: more than one write takes"


def test_a_slow_answer_counts_from_the_question():
    hold, clock = make()
    asked_at = clock.now
    clock.now += 2
    hold.renewed(asked_at=asked_at)
    assert hold.seconds_left() == 5


def test_a_lost_lease_is_not_held():
    hold, clock = make()
    hold.renewed(asked_at=clock.now)
    hold.lost()
    assert not hold.is_held()
    assert hold.seconds_left() == 0
