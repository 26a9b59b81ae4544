"""The operator's core on a real API server, with a tiny controller: what it writes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import aiohttp
import pytest

from factories import make_finetunejob, make_modeldeployment
from luthier import app as luthier_app
from luthier import kube, status
from luthier.app import App
from luthier.errors import InvalidSpec
from luthier.naming import child_metadata, child_name
from luthier.own import key_of
from luthier.plan import Event, Plan
from luthier.resources import CONTROLLERREVISION, EVALUATION, FINETUNEJOB, MODELDEPLOYMENT, SERVICE
from luthier.settings import Settings
from luthier.watch import Life
from waiting import until_async

pytestmark = pytest.mark.cluster


class Tiny:
    """Makes one Service (applied) and one ControllerRevision (made once), and counts them in status."""

    resource = FINETUNEJOB

    def __init__(self):
        self.passes = 0
        self.fail: Exception | None = None
        self.port = 80

    def references(self, obj):
        return ()

    async def observe(self, obj, ports):
        self.passes += 1
        uid = obj["metadata"]["uid"]
        return len(ports.children.owned(uid, SERVICE)) + len(ports.children.owned(uid, CONTROLLERREVISION)), ports.now

    def decide(self, obj, observed):
        if self.fail is not None:
            raise self.fail
        count, now = observed
        generation = obj["metadata"]["generation"]
        old = obj.get("status", {}).get("conditions", [])
        said = {"reason": "Made", "message": f"{count} children", "generation": generation, "now": now}
        conditions = status.summarize(status.mark_settled(old), kind=obj["kind"], **said)
        return Plan(
            status={"observedGeneration": generation, "conditions": conditions, "resumeCount": count},
            apply=(self.service(obj), self.revision(obj)),
            events=(Event(type="Normal", reason="Made", message=f"{count} children"),) if count < 2 else (),
        )

    def service(self, obj):
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": child_metadata(obj, "svc", role="test"),
            "spec": {"selector": {"app": "x"}, "ports": [{"name": "http", "port": self.port}]},
        }

    def revision(self, obj):
        metadata = child_metadata(obj, "rev", role="test")
        return {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "data": {}, "revision": 1}


class Quiet(Tiny):
    """The other two kinds: nothing to do."""

    def __init__(self, resource):
        super().__init__()
        self.resource = resource

    def decide(self, obj, observed):
        return Plan(status=obj.get("status", {}))


class Running:
    """One operator in this process, and the task that runs it."""

    def __init__(self, app: App, tiny: Tiny, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
        self.app = app
        self.tiny = tiny
        self._stop = stop
        self._task = task

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 30)

    async def settled(self) -> None:
        """Wait until the queue is empty and nothing more comes of it."""

        def is_quiet():
            if self._task.done():
                self._task.result()
            queue = self.app.queue
            return self.app.elector.may_write() and queue.depth() == queue.working() == 0

        await until_async(is_quiet, "the queue is empty")

    def writes(self) -> int:
        return self.app.metrics.writes()


@pytest.fixture
async def start(control_plane, namespace, monkeypatch):
    """Return a function that starts an operator in this process for the test's namespace."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    async with contextlib.AsyncExitStack() as stack:

        async def go(tiny: Tiny | None = None, **settings: Any) -> Running:
            tiny = tiny or Tiny()
            client = await stack.enter_async_context(kube.connect())
            http = await stack.enter_async_context(aiohttp.ClientSession())
            known = {"namespace": namespace, "watch_namespaces": [namespace], "health_port": 0, "workers": 2}
            controllers = {c.resource.kind: c for c in (tiny, Quiet(EVALUATION), Quiet(MODELDEPLOYMENT))}
            app = App(Settings(**(known | settings)), controllers, client=client, http=http)
            stop = asyncio.Event()
            running = Running(app, tiny, stop, asyncio.create_task(app.run(stop)))
            stack.push_async_callback(running.stop)
            return running

        yield go


class Objects:
    """The API as a user sees it, in one namespace."""

    def __init__(self, api, namespace):
        self._api = api
        self.namespace = namespace

    def create(self, name, **spec):
        obj = make_finetunejob(name, **spec)
        obj["metadata"] = {"name": name, "namespace": self.namespace}
        reply = self._api.post(self.path(FINETUNEJOB), json=obj)
        assert reply.status_code == 201, reply.text
        return reply.json()

    def get(self, resource, name):
        reply = self._api.get(f"{self.path(resource)}/{name}")
        return reply.json() if reply.status_code == 200 else None

    def patch(self, resource, name, body):
        headers = {"Content-Type": "application/merge-patch+json"}
        reply = self._api.patch(f"{self.path(resource)}/{name}", json=body, headers=headers)
        assert reply.status_code == 200, reply.text

    def delete(self, resource, name):
        return self._api.delete(f"{self.path(resource)}/{name}")

    def list(self, resource):
        return self._api.get(self.path(resource)).json()["items"]

    def events(self, name):
        found = self._api.get(f"/api/v1/namespaces/{self.namespace}/events").json()["items"]
        return [event for event in found if event["involvedObject"]["name"] == name]

    def path(self, resource):
        root = "/api/" if "/" not in resource.api_version else "/apis/"
        return f"{root}{resource.api_version}/namespaces/{self.namespace}/{resource.plural}"


@pytest.fixture
def objects(api, namespace):
    return Objects(api, namespace)


def reason(obj):
    found = status.find_condition((obj or {}).get("status", {}).get("conditions", []), "Succeeded")
    return found and found["reason"]


async def made(objects, name):
    def has_both():
        obj = objects.get(FINETUNEJOB, name)
        return obj if obj.get("status", {}).get("resumeCount") == 2 else None

    return await until_async(has_both, f"{name} has both children in its status")


async def test_children_are_made_owned_and_counted_and_a_second_look_writes_nothing(start, objects):
    running = await start()
    created = objects.create("alpha")
    obj = await made(objects, "alpha")
    for resource, suffix in ((SERVICE, "svc"), (CONTROLLERREVISION, "rev")):
        child = objects.get(resource, child_name(created, suffix))
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (created["metadata"]["uid"], True)
    assert reason(obj) == "Made"

    await running.settled()
    writes, passes = running.writes(), running.tiny.passes
    assert writes == 4, "two children, a status before they were seen, and one after"
    for key in running.app.own.all_keys():
        running.app.queue.add(key)
    await until_async(lambda: running.tiny.passes > passes, "one more pass")
    await running.settled()
    assert running.writes() == writes


@pytest.mark.row(8)
async def test_a_restart_with_everything_settled_writes_nothing(start, objects):
    first = await start()
    for name in ("alpha", "beta", "gamma"):
        objects.create(name)
        await made(objects, name)
    await first.settled()
    await first.stop()

    second = await start()
    await until_async(lambda: second.tiny.passes >= 3, "each object was looked at")
    await second.settled()
    assert second.writes() == 0


@pytest.mark.row(26, 27)
async def test_a_hand_edit_of_a_child_is_taken_back_and_a_deleted_child_comes_back(start, objects):
    await start()
    created = objects.create("alpha")
    await made(objects, "alpha")
    name = child_name(created, "svc")
    objects.patch(SERVICE, name, {"spec": {"selector": {"app": "hijacked"}}})
    await until_async(lambda: objects.get(SERVICE, name)["spec"]["selector"]["app"] == "x", "the selector is back")
    uid = objects.get(SERVICE, name)["metadata"]["uid"]
    objects.delete(SERVICE, name)

    def is_new():
        found = objects.get(SERVICE, name)
        return found is not None and found["metadata"]["uid"] != uid

    await until_async(is_new, "the Service was made again")


async def test_a_field_that_the_manifest_drops_is_dropped_in_the_cluster(start, objects):
    running = await start()
    created = objects.create("alpha")
    await made(objects, "alpha")
    name = child_name(created, "svc")
    service = running.tiny.service
    running.tiny.service = lambda obj: service(obj) | {"spec": {"ports": [{"name": "web", "port": 81}]}}
    objects.patch(FINETUNEJOB, "alpha", {"spec": {"suspend": True}})
    await until_async(lambda: "selector" not in objects.get(SERVICE, name)["spec"], "the selector is gone")
    assert [port["name"] for port in objects.get(SERVICE, name)["spec"]["ports"]] == ["web"]


@pytest.mark.parametrize("suffix", ["svc", "rev"])
async def test_somebody_elses_object_of_a_childs_name_is_not_touched(start, objects, api, suffix):
    running = await start()
    running.tiny.fail = InvalidSpec("spec", "not yet")
    created = objects.create("alpha")
    await until_async(lambda: reason(objects.get(FINETUNEJOB, "alpha")) == "InvalidSpec", "it waits")
    wanted = running.tiny.service(created) if suffix == "svc" else running.tiny.revision(created)
    foreign = {**wanted, "metadata": {"name": wanted["metadata"]["name"], "namespace": objects.namespace}}
    resource = SERVICE if suffix == "svc" else CONTROLLERREVISION
    assert api.post(objects.path(resource), json=foreign).status_code == 201
    before = objects.get(resource, foreign["metadata"]["name"])

    running.tiny.fail = None
    objects.patch(FINETUNEJOB, "alpha", {"spec": {"suspend": True}})
    await until_async(lambda: reason(objects.get(FINETUNEJOB, "alpha")) == "NameConflict", "the conflict is told")
    obj = objects.get(FINETUNEJOB, "alpha")
    assert status.find_condition(obj["status"]["conditions"], "Stalled")["status"] == "True"
    assert objects.get(resource, foreign["metadata"]["name"]) == before


async def test_a_wrong_spec_stalls_and_a_new_one_goes_on(start, objects):
    running = await start()
    running.tiny.fail = InvalidSpec("spec.output.uri", "is an RWO claim")
    objects.create("alpha")
    await until_async(lambda: reason(objects.get(FINETUNEJOB, "alpha")) == "InvalidSpec", "it stalls")
    stalled = objects.get(FINETUNEJOB, "alpha")["status"]
    assert status.find_condition(stalled["conditions"], "Stalled")["message"] == "spec.output.uri: is an RWO claim"
    [event] = await until_async(lambda: objects.events("alpha"), "the event is there")
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "InvalidSpec", 1)
    running.tiny.fail = None
    objects.patch(FINETUNEJOB, "alpha", {"spec": {"suspend": True}})
    obj = await made(objects, "alpha")
    assert status.find_condition(obj["status"]["conditions"], "Stalled") is None


@pytest.mark.row(10)
async def test_a_bug_in_one_pass_is_told_backs_off_and_holds_up_nobody(start, objects):
    running = await start()
    good = running.tiny.decide
    running.tiny.decide = lambda obj, seen: 1 / 0 if obj["metadata"]["name"] == "poisoned" else good(obj, seen)
    objects.create("poisoned")
    objects.create("alpha")
    await made(objects, "alpha")
    await until_async(lambda: reason(objects.get(FINETUNEJOB, "poisoned")) == "InternalError", "the bug is told")
    running.tiny.decide = good
    await made(objects, "poisoned")


@pytest.mark.parametrize(
    ("port", "words"),
    [(99_999, "must be between 1 and 65535"), ("eighty", "expected numeric (int or float), got string")],
)
async def test_what_the_api_server_refuses_is_told_in_its_words(start, objects, port, words):
    running = await start()
    running.tiny.port = port
    objects.create("alpha")
    await until_async(lambda: reason(objects.get(FINETUNEJOB, "alpha")) == "Refused", "the refusal is told")
    conditions = objects.get(FINETUNEJOB, "alpha")["status"]["conditions"]
    assert words in status.find_condition(conditions, "Reconciling")["message"]
    running.tiny.port = 80
    await made(objects, "alpha")


async def test_what_is_written_arrives_as_it_was_and_a_record_can_be_patched_by_others(start, objects):
    running = await start()
    created = objects.create("alpha")
    await made(objects, "alpha")
    text = "<&> é \U0001f600 \x7f \u2028 \\ud83d"
    service = child_metadata(created, "written", role="test") | {"annotations": {"text": text}}
    spec = {"ports": [{"name": "http", "port": 80}]}
    await running.app.kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": service, "spec": spec})
    assert objects.get(SERVICE, service["name"])["metadata"]["annotations"]["text"] == text

    record = running.tiny.revision(created)
    record["metadata"] = child_metadata(created, "written", role="test")
    await running.app.kube.create(record | {"data": {"b": text, "a": [1]}})
    # As the garbage collector does it, when an object of ours is deleted and its children are to stay.
    objects.patch(CONTROLLERREVISION, record["metadata"]["name"], {"metadata": {"ownerReferences": None}})
    assert objects.get(CONTROLLERREVISION, record["metadata"]["name"])["data"] == {"b": text, "a": [1]}


@pytest.mark.row(41)
async def test_an_object_that_is_being_deleted_is_left_alone(start, objects):
    running = await start()
    objects.create("alpha")
    await made(objects, "alpha")
    objects.patch(FINETUNEJOB, "alpha", {"metadata": {"finalizers": ["test.luthier.dev/hold"]}})
    objects.delete(FINETUNEJOB, "alpha")
    [key] = running.app.own.all_keys()
    await until_async(lambda: "deletionTimestamp" in running.app.own.get(key)["metadata"], "the deletion is seen")
    await running.settled()
    writes = running.writes()
    running.app.queue.add(key)
    await running.settled()
    assert running.writes() == writes
    objects.patch(FINETUNEJOB, "alpha", {"metadata": {"finalizers": None}})
    await until_async(lambda: not running.app.own.all_keys(), "it is gone")


@pytest.mark.row(18)
async def test_kopf_that_dies_is_started_again_and_events_flow(start, objects):
    running = await start()
    objects.create("alpha")
    await made(objects, "alpha")
    first = running.app.watch.life

    def kill():
        for task in asyncio.all_tasks(first.loop):
            task.cancel()

    first.loop.call_soon_threadsafe(kill)
    await until_async(lambda: running.app.watch.life is not first, "the supervisor started another")
    objects.create("beta")
    await made(objects, "beta")
    starts = running.app.metrics.registry.get_sample_value("luthier_kopf_starts_total")
    assert starts == 2


async def test_an_object_deleted_before_kopf_has_listed_it_is_forgotten(start, objects, monkeypatch):
    login, may_begin = Life._login, threading.Event()

    async def late(life):
        while not may_begin.is_set():
            await asyncio.sleep(0.05)
        return await login(life)

    monkeypatch.setattr(Life, "_login", late)
    key = key_of(objects.create("alpha"))
    running = await start()
    await made(objects, "alpha")
    await running.settled()  # a write of a pass would find out too
    objects.delete(FINETUNEJOB, "alpha")
    assert running.app.own.get(key) is not None, "nobody has told"
    may_begin.set()
    await until_async(lambda: running.app.own.get(key) is None, "it is forgotten", seconds=20)


@pytest.mark.row(17)
async def test_deletions_in_a_gap_of_the_watch_are_acted_on(start, objects, monkeypatch):
    running = await start()
    created = objects.create("alpha")
    await made(objects, "alpha")
    reflector = running.app.store._reflectors["Service", objects.namespace]

    async def expired(*_args):
        raise luthier_app.kube.ApiError(410, "too old", reason="Expired")

    gap = monkeypatch.context()
    with gap as patch:
        patch.setattr(reflector, "_watch", expired)
        name = child_name(created, "svc")
        uid = objects.get(SERVICE, name)["metadata"]["uid"]
        objects.delete(SERVICE, name)

        def is_new():
            found = objects.get(SERVICE, name)
            return found is not None and found["metadata"]["uid"] != uid

        await until_async(is_new, "the lists alone showed the deletion")


@pytest.mark.row(5)
async def test_of_two_replicas_exactly_one_acts_and_the_other_takes_over(start, objects):
    first, second = await start(), await start()
    await until_async(lambda: first.app.elector.may_write() or second.app.elector.may_write(), "one leads")
    leader, standby = (first, second) if first.app.elector.may_write() else (second, first)
    objects.create("alpha")
    await made(objects, "alpha")
    assert standby.tiny.passes == 0
    assert standby.writes() == 0
    assert not standby.app.elector.may_write()
    assert standby.app._unready() is None, "a standby is ready"

    await leader.stop()
    await until_async(standby.app.elector.may_write, "the Lease was given back and taken", seconds=10)
    objects.create("beta")
    await made(objects, "beta")


@pytest.mark.row(6)
async def test_a_leader_that_cannot_renew_stops_acting_before_its_lease_is_over(start, objects, monkeypatch):
    running = await start()
    objects.create("alpha")
    await made(objects, "alpha")
    monkeypatch.setattr(running.app.elector, "_take", lambda: asyncio.Event().wait())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until_async(lambda: not running.app.elector.may_write(), "it stops", seconds=15)
    assert loop.time() - began <= 10.5
    with pytest.raises(luthier_app.kube.NotLeader):
        await running.app.kube.create(running.tiny.revision(objects.get(FINETUNEJOB, "alpha")))


async def test_probes_and_metrics(start, objects):
    running = await start()
    objects.create("alpha")
    await made(objects, "alpha")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.app.health.port}") as http:
        for path in ("/healthz", "/readyz"):
            async with http.get(path) as reply:
                assert (reply.status, await reply.text()) == (200, "ok\n")
        async with http.get("/metrics") as reply:
            text = await reply.text()
    assert "luthier_leader 1.0" in text
    assert 'luthier_watch_age_seconds{resource="finetunejobs"}' in text
    assert 'luthier_reconciles_total{kind="FineTuneJob",result="ok"}' in text


async def test_a_deployment_that_answers_nobody_is_in_the_metrics(start, objects, api):
    running = await start()
    await running.settled()
    obj = {**make_modeldeployment(), "metadata": {"name": "support"}}
    assert api.post(objects.path(MODELDEPLOYMENT), json=obj).status_code == 201
    condition = {"type": "Serving", "status": "False", "reason": "NoReadyPods", "message": "no pod of r1 is ready"}
    condition |= {"observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    stable = {"name": "r1-0a1b2c3d", "number": 1, "modelDigest": "sha256:1", "evaluation": "tickets-eval"}
    url = f"{objects.path(MODELDEPLOYMENT)}/support/status"
    patched = api.patch(
        url,
        json={"status": {"conditions": [condition], "stable": {**stable, "readyReplicas": 0}}},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert patched.status_code == 200, patched.text
    labels = f'name="support",namespace="{objects.namespace}",reason="NoReadyPods"'
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.app.health.port}") as http:

        async def text() -> str:
            async with http.get("/metrics") as reply:
                return await reply.text()

        async with asyncio.timeout(30):
            while f"luthier_serving{{{labels}}} 0.0" not in await text():
                await asyncio.sleep(0.05)
