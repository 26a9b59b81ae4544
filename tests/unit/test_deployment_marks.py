"""Objects are found by their marks, and nothing that the API server may hold keeps an object from being marked."""

import pytest

from factories import make_modeldeployment
from luthier.deployment.marks import ROLLING_OUT, addresses_of, marks_of
from luthier.own import OwnCache


def deployment(name, gateway, **more):
    obj = make_modeldeployment()
    meta = {**obj["metadata"], "name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
    return {**obj, "metadata": meta, "spec": {**obj["spec"], "gateway": gateway}, **more}


ONE = deployment("one", {"parentRefs": [{"name": "llm"}], "hostnames": ["a", "b"]})
TWO = deployment("two", {"parentRefs": [{"name": "llm"}], "hostnames": ["b"]}, status={"stable": {}})
BUSY = {"stable": {}, "candidate": {}, "rollout": {}}


def test_objects_are_found_by_what_they_share():
    own = OwnCache(enqueue=lambda key: None, marks_of=marks_of)
    for obj in (ONE, TWO):
        own.saw("ADDED", obj)
    [only, shared] = sorted(addresses_of(ONE))
    assert [o["metadata"]["name"] for o in own.marked(only)] == ["one"]
    assert [o["metadata"]["name"] for o in own.marked(shared)] == ["one", "two"]
    assert own.marked(ROLLING_OUT) == []
    metadata = {**TWO["metadata"], "resourceVersion": "2"}
    own.saw("MODIFIED", {**TWO, "metadata": metadata, "status": BUSY})
    assert [o["metadata"]["name"] for o in own.marked(ROLLING_OUT)] == ["two"]


@pytest.mark.parametrize(
    "obj",
    [
        {"kind": "FineTuneJob", "metadata": {}, "spec": {}},
        {"kind": "ModelDeployment", "metadata": {"namespace": "team"}},
        {"kind": "ModelDeployment", "metadata": {"namespace": "team"}, "spec": {"gateway": {"hostnames": ["a"]}}},
    ],
)
def test_an_object_that_an_older_schema_let_in_has_no_marks(obj):
    assert marks_of(obj) == set()
