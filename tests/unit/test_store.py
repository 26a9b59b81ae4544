"""Whose children the store's children are, and what is not waited for."""

import asyncio
import tracemalloc

import pytest

from factories import make_finetunejob
from luthier.errors import ApiError
from luthier.kube import Kube, Page
from luthier.metrics import Metrics
from luthier.naming import UID_LABEL, child_metadata
from luthier.plan import Ref
from luthier.resources import BACKENDTRAFFICPOLICY, JOB, POD
from luthier.store import Reflector, Store

OWNER = make_finetunejob()
UID = OWNER["metadata"]["uid"]


@pytest.fixture
def store():
    return Store(None, metrics=Metrics(), enqueue=lambda key: None)


def child(kind, **metadata):
    made = child_metadata(OWNER, "train-1", role="train")
    return {"kind": kind, "metadata": {**made, "uid": "u-1", "resourceVersion": "1", **metadata}}


def test_a_child_is_found_by_its_owner(store):
    store.wrote(child("Job"))
    assert store.owned(UID, JOB) == [child("Job")]
    assert store.owned("another", JOB) == []


@pytest.mark.parametrize(
    "references",
    [
        pytest.param([], id="nobody controls it"),
        pytest.param([{"uid": "another", "controller": True}], id="another object controls it"),
        pytest.param([{"uid": UID, "controller": False}], id="our object is an owner, not its controller"),
    ],
)
def test_a_copy_with_our_labels_is_not_our_child(store, references):
    store.wrote(child("Job", name="copy", ownerReferences=references))
    assert store.owned(UID, JOB) == []


def test_pods_are_found_by_label_since_jobs_control_them(store):
    pod = child("Pod", ownerReferences=[{"uid": "of-the-job", "controller": True}])
    store.wrote(pod)
    assert store.owned(UID, POD) == [pod]


class Forbidding:
    """An API server that lets nobody list."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def list(self, resource, namespace, selector):
        self.asked.set()
        raise ApiError(403, "no")
        yield


@pytest.mark.parametrize(("resource", "goes_on"), [(BACKENDTRAFFICPOLICY, True), (POD, False)])
async def test_what_only_some_objects_need_is_not_waited_for(resource, goes_on):
    server = Forbidding()
    reflector = Reflector(server, resource, None, metrics=Metrics(), changed=lambda changed: None)
    running = asyncio.create_task(reflector.run())
    await asyncio.wait_for(server.asked.wait(), 5)
    await asyncio.sleep(0)
    assert reflector.settled.is_set() is goes_on
    running.cancel()


class Expiring:
    """An API server that loses the first list after its first page; then it has another object, and no more news."""

    def __init__(self):
        self.lists = 0
        self.watched = asyncio.Event()

    async def list(self, resource, namespace, selector):
        self.lists += 1
        if self.lists == 1:
            yield Page(items=[child("Pod", name="early", uid="u-early")], resource_version="5")
            raise ApiError(410, "the continue token has expired")
        yield Page(items=[child("Pod", name="late", uid="u-late", resourceVersion="7")], resource_version="9")

    async def watch(self, resource, namespace, since, selector):
        assert since == "9", "it follows the list that came to its end"
        self.watched.set()
        await asyncio.Event().wait()
        yield


async def test_a_list_that_expires_midway_begins_anew_and_takes_nothing_for_gone_before_its_end():
    server, changed = Expiring(), []
    store = Store(server, metrics=Metrics(), enqueue=changed.append, resources=[POD])
    before = child("Pod", name="before", uid="u-before", resourceVersion="3")
    store.wrote(before)
    running = asyncio.create_task(store.run())
    await asyncio.wait_for(server.watched.wait(), 5)
    assert server.lists == 2
    assert [pod["metadata"]["name"] for pod in store.owned(UID, POD)] == ["late"]
    assert len(changed) == 5, "three were seen and two are gone: each time the owner looks"
    running.cancel()


async def test_pods_are_kept_without_what_nobody_reads(store):
    pod = child("Pod")
    whole = {
        "metadata": {**pod["metadata"], "managedFields": [{}], "annotations": {"cni": "x"}},
        "spec": {"containers": [{"name": "server", "env": [{"name": "A"}]}], "volumes": [{"name": "v"}]},
        "status": {"phase": "Running", "qosClass": "Burstable"},
    }
    store.wrote({**pod, **whole})
    [kept] = store.owned(UID, POD)
    assert kept == {**pod, "spec": {"containers": [{"name": "server"}]}, "status": {"phase": "Running"}}
    assert store.find(POD, "team", pod["metadata"]["name"]) == kept


PODS, PAGE = 1000, 50


class Full:
    """An API server with a thousand pods, and no more news."""

    def __init__(self):
        self.watched = asyncio.Event()

    async def __call__(self, verb, resource, path, *, query):
        first = int(query.get("continue", 0))
        more = {"continue": str(first + PAGE)} if first + PAGE < PODS else {}
        return {"metadata": {"resourceVersion": "9", **more}, "items": [a_big_pod(first + i) for i in range(PAGE)]}

    async def watch(self, resource, namespace, since, selector):
        self.watched.set()
        await asyncio.Event().wait()
        yield


def a_big_pod(number):
    pod = child("Pod", name=f"pod-{number}", uid=f"u-{number}")
    env = [{"name": f"VARIABLE_{i}", "value": f"{number}-{i}"} for i in range(40)]
    return {**pod, "spec": {"containers": [{"name": "server", "env": env}]}, "status": {"phase": "Running"}}


async def test_neither_a_list_nor_what_is_kept_of_it_stands_in_memory_whole(monkeypatch):
    server, kube = Full(), Kube(None, metrics=Metrics())
    monkeypatch.setattr(kube, "_call", server)
    monkeypatch.setattr(kube, "watch", server.watch)
    tracemalloc.start()
    whole = [a_big_pod(number) for number in range(PODS)]
    size, _ = tracemalloc.get_traced_memory()
    del whole
    tracemalloc.reset_peak()
    store = Store(kube, metrics=Metrics(), enqueue=lambda key: None, resources=[POD])
    running = asyncio.create_task(store.run())
    await asyncio.wait_for(server.watched.wait(), 30)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    running.cancel()
    assert len(store.owned(UID, POD)) == PODS
    assert kept < size / 10
    assert peak < size / 4


@pytest.mark.parametrize("namespaces", [(), ("team", "other")])
def test_children_are_found_by_their_owner_after_any_change(namespaces):
    store = Store(None, metrics=Metrics(), enqueue=lambda key: None, namespaces=namespaces)
    for name in ("b", "a"):
        store.wrote(child("Job", name=name, uid=f"u-{name}"))
    assert [job["metadata"]["name"] for job in store.owned(UID, JOB)] == ["a", "b"]
    labels = {**child("Job")["metadata"]["labels"], UID_LABEL: "another"}
    store.wrote(child("Job", name="b", uid="u-b", resourceVersion="2", labels=labels))
    assert [job["metadata"]["name"] for job in store.owned(UID, JOB)] == ["a"], "the index follows the label"
    store.deleted(Ref(api_version="batch/v1", kind="Job", namespace="team", name="a", uid="u-a"))
    assert store.owned(UID, JOB) == []
