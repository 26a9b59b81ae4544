"""What is kept of an object reads back equal, in a fraction of its room."""

import json
import random
import sys
import uuid

import pytest

from factories import make_finetunejob
from luthier.packing import Packer, pruned

RNG = random.Random(1)


def a_pod(i):
    """Return a pod as a cluster has it."""
    uid = str(uuid.UUID(int=RNG.getrandbits(128)))
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"support-{i}-r1-{uid[:8]}",
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(1000 + i),
            "labels": {"luthier.dev/name": f"support-{i}", "luthier.dev/uid": uid[::-1]},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
        },
        "spec": {
            "containers": [{"name": "server", "image": "x", "resources": {"requests": {"cpu": "1"}}, "env": []}],
            "nodeName": "node-1",
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.0.0.{i % 250}",
            "conditions": [{"type": c, "status": "True", "lastTransitionTime": f"{i}"} for c in conditions],
            "containerStatuses": [{"name": "server", "ready": True, "state": {"running": {}}, "imageID": uid * 2}],
        },
    }


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(make_finetunejob(), id="ours"),
        pytest.param({}, id="empty"),
        pytest.param(
            {"a": [None, True, 0, -1, 2**63 - 1, 0.1, "é\U0001f600\u2028\0"], "": {"x" * 99: []}}, id="any JSON"
        ),
        pytest.param({"text": "".join(RNG.choices("abcdef0123456789", k=100_000))}, id="beyond zlib's window"),
    ],
)
def test_a_packed_object_reads_back_equal_whatever_came_before(obj):
    packer = Packer()
    packed = [packer.pack(each) for each in (obj, a_pod(0), obj, a_pod(1), obj)]
    assert packed[0].unpack() == packed[2].unpack() == packed[4].unpack() == json.loads(json.dumps(obj))
    assert packed[0].unpack() is not packed[0].unpack()


def test_of_many_alike_each_takes_a_fraction_of_its_text():
    packer = Packer()
    pods = [pruned(a_pod(i)) for i in range(200)]
    packed = [packer.pack(pod) for pod in pods]
    assert [each.unpack() for each in packed] == pods
    own = sum(sys.getsizeof(each.data) for each in packed)
    patterns = sum(map(sys.getsizeof, {each.like for each in packed}))
    assert own + patterns < sum(len(json.dumps(pod)) for pod in pods) / 3


def test_of_a_pod_only_what_is_read_is_kept():
    kept = pruned(a_pod(7))
    assert sorted(kept["metadata"]) == ["labels", "name", "namespace", "resourceVersion", "uid"]
    assert kept["spec"] == {"containers": [{"name": "server", "resources": {"requests": {"cpu": "1"}}}]}
    assert sorted(kept["status"]) == ["conditions", "containerStatuses", "phase", "podIP"]
    assert kept["status"]["containerStatuses"] == [{"name": "server", "ready": True, "state": {"running": {}}}]


def test_of_all_else_only_managed_fields_are_dropped():
    job = make_finetunejob()
    managed = {**job, "metadata": {**job["metadata"], "managedFields": [{"manager": "kubectl"}]}}
    assert pruned(managed) == job
    assert "managedFields" in managed["metadata"], "whoever gave it goes on with the whole object"
