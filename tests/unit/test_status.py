"""Conditions keep their history, and the summary follows from Reconciling and Stalled alone."""

from datetime import UTC, datetime, timedelta

import pytest

from luthier import status

T0 = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
LATER = T0 + timedelta(minutes=5)


def condition(**changes):
    said = {"type": "Training", "status": "False", "reason": "Queued", "message": "waits for a node"} | changes
    return status.set_condition([], **said, generation=3, now=T0)


def test_a_new_condition_carries_generation_and_time():
    assert condition() == [
        {
            "type": "Training",
            "status": "False",
            "reason": "Queued",
            "message": "waits for a node",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
    ]


def test_saying_the_same_again_keeps_the_time_and_moves_the_generation():
    [again] = status.set_condition(
        condition(),
        type="Training",
        status="False",
        reason="Queued",
        message="waits for a node",
        generation=4,
        now=LATER,
    )
    assert again["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert again["observedGeneration"] == 4


@pytest.mark.parametrize("change", [{"status": "True"}, {"reason": "Running"}, {"message": "step 3"}])
def test_a_change_of_status_reason_or_message_moves_the_time(change):
    said = {"type": "Training", "status": "False", "reason": "Queued", "message": "waits for a node"} | change
    [new] = status.set_condition(condition(), **said, generation=3, now=LATER)
    assert new["lastTransitionTime"] == "2026-01-02T03:09:05Z"


def test_the_arguments_stay_as_they_are_and_so_does_the_order():
    before = condition() + condition(type="Other")
    copy = [dict(c) for c in before]
    after = status.set_condition(
        before, type="Training", status="True", reason="Running", message="", generation=3, now=LATER
    )
    assert before == copy
    assert [c["type"] for c in after] == ["Training", "Other"]


def test_a_message_longer_than_the_schema_allows_is_cut():
    [only] = condition(message="x" * 5000)
    assert len(only["message"]) == status.MAX_MESSAGE
    assert only["message"].endswith("…")


def mark(name, conditions=()):
    return getattr(status, name)(list(conditions), reason="Why", message="because", generation=1, now=T0)


def test_reconciling_and_stalled_exclude_each_other_and_settled_removes_both():
    stalled = mark("mark_stalled", mark("mark_reconciling"))
    assert [c["type"] for c in stalled] == ["Stalled"]
    assert [c["type"] for c in mark("mark_reconciling", stalled)] == ["Reconciling"]
    assert status.mark_settled(stalled) == []


@pytest.mark.parametrize(
    ("kind", "marks", "expected"),
    [
        ("FineTuneJob", ("mark_stalled",), ("Succeeded", "False", "Why")),
        ("FineTuneJob", ("mark_reconciling",), ("Succeeded", "Unknown", "Why")),
        ("Evaluation", (), ("Succeeded", "True", "Done")),
        ("ModelDeployment", ("mark_stalled",), ("Ready", "False", "Why")),
        ("ModelDeployment", ("mark_reconciling",), ("Ready", "False", "Why")),
        ("ModelDeployment", (), ("Ready", "True", "Done")),
    ],
)
def test_the_summary_follows_from_the_marks(kind, marks, expected):
    conditions = []
    for name in marks:
        conditions = mark(name, conditions)
    top = status.summarize(conditions, kind=kind, reason="Done", message="all of it", generation=2, now=T0)[-1]
    assert (top["type"], top["status"], top["reason"]) == expected
    assert top["message"] == ("because" if marks else "all of it")


def test_times_are_read_as_they_are_written():
    assert status.parse_time(status.format_time(T0)) == T0.replace(microsecond=0)
    assert status.parse_time("2026-01-02T03:04:05.678000Z") == T0
