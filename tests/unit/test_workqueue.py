"""The queue on a clock of the test's own: no loop, no waiting."""

import asyncio

import pytest

from luthier.plan import Key
from luthier.workqueue import Done, Retry, Schedule, WorkQueue

A = Key(kind="FineTuneJob", namespace="team", name="a")
B = Key(kind="FineTuneJob", namespace="team", name="b")


@pytest.fixture
def schedule():
    return Schedule(jitter=lambda: 0.5)


def drain(schedule, now):
    return [key for key in iter(lambda: schedule.take(now), None)]


def test_a_key_is_handed_out_once_however_often_it_is_added(schedule):
    for _ in range(3):
        schedule.add(A, 0)
    assert drain(schedule, 0) == [A]
    schedule.finish(A, Done(), 0)
    assert drain(schedule, 100) == []


def test_first_in_first_out(schedule):
    schedule.add(B, 0)
    schedule.add(A, 0)
    assert drain(schedule, 0) == [B, A]


def test_a_key_is_never_worked_on_twice_at_once_and_what_came_meanwhile_counts(schedule):
    schedule.add(A, 0)
    assert schedule.take(0) == A
    schedule.add(A, 1)
    assert schedule.take(2) is None
    assert schedule.next_at() is None, "a busy key wakes nobody"
    schedule.finish(A, Done(), 3)
    assert schedule.take(3) == A


def test_the_earlier_of_two_times_wins(schedule):
    schedule.add(A, 30)
    schedule.add(A, 5)
    schedule.add(A, 60)
    assert schedule.next_at() == 5
    assert schedule.take(4.9) is None
    assert drain(schedule, 100) == [A]


def test_requeue_after_counts_from_the_end_of_the_pass(schedule):
    schedule.add(A, 0)
    schedule.take(0)
    schedule.finish(A, Done(requeue_after=30), 2)
    assert schedule.next_at() == 32


@pytest.mark.row(10)
def test_failures_back_off_exponentially_up_to_a_minute_and_success_resets(schedule):
    now, delays = 0.0, []
    schedule.add(A, now)
    for _ in range(10):
        assert schedule.take(now) == A
        schedule.finish(A, Retry(), now)
        delays.append(schedule.next_at() - now)
        now = schedule.next_at()
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    schedule.take(now)
    schedule.finish(A, Done(), now)
    schedule.add(A, now)
    schedule.take(now)
    schedule.finish(A, Retry(), now)
    assert schedule.next_at() - now == 0.5


def fail(schedule, times, at):
    for _ in range(times):
        schedule.add(A, at)
        assert schedule.take(at) == A
        schedule.finish(A, Retry(), at)
        at += 1
    return at - 1


def test_an_event_brings_a_failed_key_forward_but_not_under_a_second(schedule):
    failed_at = fail(schedule, 6, at=0)
    assert schedule.next_at() == failed_at + 16
    schedule.add(A, failed_at)
    assert schedule.next_at() == failed_at + 1


def test_an_event_during_a_failing_pass_waits_as_well(schedule):
    schedule.add(A, 0)
    schedule.take(0)
    schedule.add(A, 0)
    schedule.finish(A, Retry(not_before_seconds=5), 0)
    assert schedule.next_at() == 5


@pytest.mark.row(14)
def test_a_throttled_key_waits_as_long_as_the_server_asked_whatever_happens(schedule):
    schedule.add(A, 0)
    schedule.take(0)
    schedule.finish(A, Retry(not_before_seconds=20), 0)
    schedule.add(A, 1)
    assert schedule.next_at() == 20
    assert schedule.take(19.9) is None
    assert schedule.take(20) == A


@pytest.mark.row(10)
def test_one_key_that_fails_holds_up_no_other(schedule):
    schedule.add(A, 0)
    schedule.take(0)
    schedule.finish(A, Retry(), 0)
    schedule.add(B, 0.1)
    assert drain(schedule, 0.1) == [B]


def test_clear_keeps_what_is_being_worked_on_single(schedule):
    schedule.add(A, 0)
    schedule.add(B, 0)
    schedule.take(0)
    schedule.clear()
    schedule.add(A, 0)
    assert drain(schedule, 1) == []
    schedule.finish(A, Done(), 1)
    assert drain(schedule, 1) == [A]


def test_a_key_that_is_requeued_far_ahead_and_woken_again_and_again_costs_no_memory(schedule):
    """As the events of a busy pod do to an object that looks again in a day."""
    schedule.add(B, 10**6)
    for now in range(1000):
        schedule.add(A, now)
        assert schedule.take(now) == A
        schedule.finish(A, Done(requeue_after=86_400), now)
    assert len(schedule._heap) <= 2 * len(schedule) + 64
    assert schedule.next_at() == 999 + 86_400
    assert drain(schedule, 10**6) == [A, B]


def test_a_finished_key_is_pushed_once(schedule):
    schedule.add(A, 0)
    schedule.take(0)
    schedule.finish(A, Done(requeue_after=30), 0)
    assert len(schedule._heap) == 1


def test_jitter_spreads_the_retries_by_a_fifth_each_way():
    ends = []
    for part in (0.0, 1.0):
        schedule = Schedule(jitter=lambda part=part: part)
        fail(schedule, 1, at=0)
        ends.append(schedule.next_at())
    assert ends == pytest.approx([0.4, 0.6])


async def test_workers_share_the_keys_and_a_waiting_one_wakes_for_an_earlier_key():
    queue, seen, all_seen = WorkQueue(), [], asyncio.Event()

    async def run(key):
        seen.append(key)
        if len(seen) == 2:
            all_seen.set()
        return Done()

    queue.add(A, after=3600)
    workers = [asyncio.create_task(queue.work(run)) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(B)
    queue.add(A)
    async with asyncio.timeout(5):
        await all_seen.wait()
    assert sorted(key.name for key in seen) == ["a", "b"]
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_cancelled_pass_leaves_its_key_in_the_queue():
    queue, started = WorkQueue(), asyncio.Event()

    async def run(key):
        started.set()
        await asyncio.Event().wait()

    queue.add(A)
    worker = asyncio.create_task(queue.work(run))
    async with asyncio.timeout(5):
        await started.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert queue.depth() == 1
