"""Errors become conditions and retries in one table; a run that has ended stays ended."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from factories import make_finetunejob, make_modeldeployment
from luthier import status
from luthier.errors import ApiError, Conflict, InvalidSpec, NameConflict, NotFound, NotLeader, Throttled, Unreachable
from luthier.events import EventLog
from luthier.metrics import Metrics
from luthier.own import OwnCache, key_of
from luthier.plan import Event, Plan, Ref, Traffic
from luthier.ports import Ports
from luthier.reconcile import LASTING_SECONDS, Outages, Reconciler, Verdict, has_ended, judge, told
from luthier.workqueue import Done, Retry

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "outcome", "mark", "reason"),
    [
        (InvalidSpec("spec.output", "no such claim"), Done(), "Stalled", "InvalidSpec"),
        (InvalidSpec("spec.model", "is RWO", reason="ClaimNotShareable"), Done(), "Stalled", "ClaimNotShareable"),
        (NameConflict("taken"), Done(), "Stalled", "NameConflict"),
        (Conflict(409, "changed"), Retry(), None, ""),
        (Throttled(429, "slow down", retry_after=7), Retry(not_before_seconds=7), None, ""),
        (ApiError(403, "exceeded quota"), Retry(), "Reconciling", "Refused"),
        (ApiError(422, "invalid port"), Retry(), "Reconciling", "Refused"),
        (NotFound(404, "gone"), Retry(), "Reconciling", "Refused"),
        (ApiError(500, "etcd"), Retry(), None, ""),
        (
            ApiError(500, "failed to create typed patch object (x): duplicate entries"),
            Retry(),
            "Reconciling",
            "Refused",
        ),
        (ApiError(500, "failed calling webhook", reason="InternalError"), Retry(), None, ""),
        (Unreachable("reset"), Retry(), None, ""),
        (NotLeader("no"), Retry(), None, ""),
        (KeyError("spec"), Retry(), "Reconciling", "InternalError"),
        (TimeoutError(), Retry(), "Reconciling", "InternalError"),
    ],
)
@pytest.mark.row(13, 14, 22)
def test_what_follows_from_an_error(error, outcome, mark, reason):
    verdict = judge(error)
    assert (verdict.outcome, verdict.mark, verdict.reason) == (outcome, mark, reason)


def test_the_message_names_the_field_or_the_servers_words():
    assert judge(InvalidSpec("spec.output", "no such claim")).message == "spec.output: no such claim"
    assert "exceeded quota" in judge(ApiError(403, "exceeded quota", reason="Forbidden")).message


@pytest.mark.parametrize("error", [ApiError(500, "webhook", reason="InternalError"), Unreachable("TimeoutError")])
def test_a_server_that_fails_for_a_minute_at_one_object_is_told_there_and_nowhere_else(error):
    now = [100.0]
    outages = Outages(lambda: now[0])
    key, other = (key_of(make_finetunejob(name)) for name in ("tickets", "other"))
    assert outages.judge(key, error).mark is None
    now[0] += LASTING_SECONDS - 1
    assert outages.judge(key, error).mark is None
    now[0] += 1
    verdict = outages.judge(key, error)
    assert (verdict.outcome, verdict.mark, verdict.reason) == (Retry(), "Reconciling", "Refused")
    assert str(error) in verdict.message
    assert outages.judge(other, error).mark is None
    outages.end(key)
    assert outages.judge(key, error).mark is None


STALL = Verdict(outcome=Done(), mark="Stalled", reason="InvalidSpec", message="spec: wrong")


def test_an_error_is_told_beside_all_that_was_known():
    obj = make_finetunejob(generation=3, status={"observedGeneration": 2, "resumeCount": 4, "conditions": []})
    new = told(obj, STALL, T0)
    assert new["resumeCount"] == 4
    assert new["observedGeneration"] == 3
    assert status.find_condition(new["conditions"], "Stalled")["status"] == "True"
    assert status.find_condition(new["conditions"], "Succeeded")["status"] == "False"
    assert obj["status"]["conditions"] == []


def test_telling_the_same_again_changes_nothing():
    obj = make_finetunejob()
    once = told(obj, STALL, T0)
    assert told({**obj, "status": once}, STALL, T0.replace(year=2027)) == once


def test_a_run_has_ended_when_it_has_a_time_of_completion():
    assert has_ended(make_finetunejob(status={"completionTime": "2026-01-01T00:00:00Z"}))
    assert not has_ended(make_finetunejob())
    assert not has_ended(make_modeldeployment(status={"conditions": [{"type": "Ready", "status": "True"}]}))


def test_a_run_that_an_error_of_ours_has_stalled_has_not_ended():
    obj = make_finetunejob()
    assert not has_ended({**obj, "status": told(obj, STALL, T0)})


class Written:
    """Children and router in one: the order of their writes, and one that the API server refuses."""

    def __init__(self, refused=None):
        self.log, self.refused = [], refused

    def _wrote(self, what):
        if what == self.refused:
            raise ApiError(422, "not like this")
        self.log.append(what)

    async def ensure(self, manifest):
        self._wrote("apply")

    async def delete(self, ref):
        self._wrote("delete")

    async def write(self, traffic):
        self._wrote("traffic")


async def written(*, status_first, refused=None):
    writes = Written(refused)
    reconciler = Reconciler(
        {}, ports=None, own=None, kube=None, children=writes, router=writes, events=None, metrics=None
    )
    ref = Ref(api_version="v1", kind="Service", namespace="team", name="old", uid="1")
    traffic = Traffic(manifest={}, resource_version=None)
    plan = Plan(status={}, apply=({},), traffic=traffic, delete=(ref,), status_first=status_first)
    try:
        await reconciler._apply(plan)
    except ApiError:
        writes.log.append("refused")
    return writes.log


async def test_who_gains_traffic_has_its_children_first():
    assert await written(status_first=True) == ["apply", "traffic", "delete"]


async def test_who_loses_traffic_loses_it_whatever_becomes_of_the_children():
    assert await written(status_first=False) == ["traffic", "apply", "delete"]
    assert await written(status_first=False, refused="apply") == ["traffic", "refused"]


class Deciding:
    """A controller that decides always the same."""

    def __init__(self, plan):
        self.plan = plan

    def references(self, obj):
        return ()

    async def observe(self, obj, ports):
        return None

    def decide(self, obj, observed):
        return self.plan


async def test_a_refused_extra_is_told_once_and_what_was_decided_stands_beside_it():
    obj, server, writes = make_modeldeployment(), Taking(), Written(refused="apply")
    own = OwnCache(enqueue=lambda key: None)
    own.saw("ADDED", obj)
    decided = {"verdict": "RolledBack(r2)", "conditions": []}
    news = Event(type="Warning", reason="RolledBack", message="errors 40 %")
    plan = Plan(status=decided, traffic=Traffic(manifest={}, resource_version=None), extras=({},), events=(news,))
    reconciler = Reconciler(
        {obj["kind"]: Deciding(plan)},
        ports=Ports(**dict.fromkeys(field.name for field in fields(Ports))),
        own=own,
        kube=server,
        children=writes,
        router=writes,
        events=EventLog("me"),
        metrics=Metrics(),
    )
    for _ in range(2):
        with pytest.raises(ApiError):
            await reconciler._pass(key_of(obj), own.get(key_of(obj)))
    status_ = own.get(key_of(obj))["status"]
    assert writes.log == ["traffic", "traffic"]
    assert status_["verdict"] == "RolledBack(r2)"
    assert "not like this" in status.find_condition(status_["conditions"], "Reconciling")["message"]
    assert [reason for reason, _ in server.posted] == ["RolledBack", "Refused", "RolledBack"]
    assert own.get(key_of(obj))["metadata"]["resourceVersion"] == str(int(obj["metadata"]["resourceVersion"]) + 1)


class Nobody:
    """An API server without the object."""

    async def get(self, resource, namespace, name):
        return None


@pytest.mark.row(21)
async def test_an_object_whose_deletion_the_watch_did_not_tell_is_forgotten():
    obj = make_modeldeployment()
    own = OwnCache(enqueue=lambda key: None)
    own.saw("ADDED", obj)
    reconciler = Reconciler(
        {}, ports=None, own=own, kube=Nobody(), children=None, router=None, events=None, metrics=None
    )
    key = key_of(obj)
    assert await reconciler._failed(key, obj, NotFound(404, "gone")) == Done()
    assert own.get(key) is None


class Taking:
    """An API server that takes a status and events."""

    def __init__(self):
        self.posted = []

    async def replace(self, manifest, *, subresource=""):
        metadata = manifest["metadata"]
        return {**manifest, "metadata": {**metadata, "resourceVersion": str(int(metadata["resourceVersion"]) + 1)}}

    async def apply(self, manifest):
        self.posted.append((manifest["reason"], manifest["message"]))


async def test_what_has_lasted_for_a_minute_is_told_once_in_status_and_event():
    obj, now, server = make_finetunejob(), [0.0], Taking()
    own = OwnCache(enqueue=lambda key: None)
    own.saw("ADDED", obj)
    reconciler = Reconciler(
        {},
        ports=None,
        own=own,
        kube=server,
        children=None,
        router=None,
        events=EventLog("me"),
        metrics=None,
        monotonic=lambda: now[0],
    )
    for now[0] in (0.0, 30.0, 61.0, 90.0):
        newest = own.get(key_of(obj))
        assert await reconciler._failed(key_of(obj), newest, ApiError(500, "failed calling webhook")) == Retry()
        told_yet = bool(own.get(key_of(obj)).get("status"))
        assert told_yet == (now[0] > 60)
    [(reason, message)] = server.posted
    assert reason == "Refused"
    assert "failed calling webhook" in message
