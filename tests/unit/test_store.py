"""Whose children the store's children are, and what is not waited for."""

import asyncio

import pytest

from factories import make_finetunejob
from luthier.errors import ApiError
from luthier.metrics import Metrics
from luthier.naming import child_metadata
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


@pytest.mark.parametrize(("resource", "goes_on"), [(BACKENDTRAFFICPOLICY, True), (POD, False)])
async def test_what_only_some_objects_need_is_not_waited_for(resource, goes_on):
    server = Forbidding()
    reflector = Reflector(server, resource, None, metrics=Metrics(), changed=lambda reflector, objects: None)
    running = asyncio.create_task(reflector.run())
    await asyncio.wait_for(server.asked.wait(), 5)
    await asyncio.sleep(0)
    assert reflector.settled.is_set() is goes_on
    running.cancel()
