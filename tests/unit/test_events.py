"""Equal events within ten minutes are one event with a count."""

from datetime import UTC, datetime, timedelta

from luthier.events import EventLog
from luthier.plan import Event

T0 = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
OBJ = {
    "apiVersion": "luthier.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "tune", "namespace": "team", "uid": "u-1"},
}
LOST = Event(type="Warning", reason="PodLost", message="node n1 is gone")


def test_the_first_is_complete():
    manifest = EventLog("pod-1").record(OBJ, LOST, T0)
    assert manifest["involvedObject"]["uid"] == "u-1"
    assert manifest["metadata"]["namespace"] == "team"
    assert (manifest["count"], manifest["firstTimestamp"]) == (1, "2026-01-02T03:00:00Z")
    assert manifest["metadata"]["name"].startswith("tune.")


def test_an_equal_one_raises_the_count_of_the_same_event():
    log = EventLog("pod-1")
    first = log.record(OBJ, LOST, T0)
    again = log.record(OBJ, LOST, T0 + timedelta(minutes=9))
    assert again["metadata"]["name"] == first["metadata"]["name"]
    assert again["count"] == 2
    assert (again["firstTimestamp"], again["lastTimestamp"]) == ("2026-01-02T03:00:00Z", "2026-01-02T03:09:00Z")


def test_after_ten_quiet_minutes_it_is_news_again():
    log = EventLog("pod-1")
    first = log.record(OBJ, LOST, T0)
    again = log.record(OBJ, LOST, T0 + timedelta(minutes=10))
    assert again["metadata"]["name"] != first["metadata"]["name"]
    assert again["count"] == 1


def test_another_message_or_object_is_another_event():
    log = EventLog("pod-1")
    other = {**OBJ, "metadata": {**OBJ["metadata"], "uid": "u-2"}}
    names = {
        log.record(OBJ, LOST, T0)["metadata"]["name"],
        log.record(OBJ, Event(type="Warning", reason="PodLost", message="node n2 is gone"), T0)["metadata"]["name"],
        log.record(other, LOST, T0)["metadata"]["name"],
    }
    assert len(names) == 3


def test_what_is_past_is_forgotten():
    log = EventLog("pod-1")
    for minute in range(60):
        log.record(OBJ, Event(type="Normal", reason="Step", message=str(minute)), T0 + timedelta(minutes=minute))
    assert len(log._series) == 10


def test_a_message_longer_than_the_api_server_takes_is_cut():
    long = Event(type="Normal", reason="Step", message="x" * 5000)
    assert len(EventLog("pod-1").record(OBJ, long, T0)["message"]) == 1024
