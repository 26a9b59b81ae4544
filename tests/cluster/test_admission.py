"""The API server itself refuses wrong objects, with no operator running, and says which field and what is allowed."""

from __future__ import annotations

import copy
import json
import uuid

import pytest

from admission_cases import ACCEPTED, CHANGED, REFUSED
from factories import make_evaluation, make_finetunejob, make_modeldeployment
from luthier.resources import BY_KIND

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def namespace(api):
    name = f"admission-{uuid.uuid4().hex[:8]}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert api.post("/api/v1/namespaces", json=namespace).status_code == 201
    return name


def bare(obj, namespace):
    """Return the object as a user writes it."""
    metadata = {"name": obj["metadata"]["name"], "namespace": namespace}
    return {**copy.deepcopy(obj), "metadata": metadata}


def url(obj, namespace):
    plural = BY_KIND[obj["kind"]].plural
    return f"/apis/luthier.dev/v1alpha1/namespaces/{namespace}/{plural}"


def create(api, obj, namespace, **params):
    params = {"fieldValidation": "Strict", **params}
    return api.post(url(obj, namespace), json=bare(obj, namespace), params=params)


@pytest.fixture
def existing(api, namespace):
    """Return a function that creates an object, gone after the test, and returns what the server stored."""
    made = []

    def make(obj):
        reply = create(api, obj, namespace)
        assert reply.status_code == 201, reply.text
        made.append(f"{url(obj, namespace)}/{obj['metadata']['name']}")
        return reply.json()

    yield make
    for path in made:
        api.delete(path)


def update(api, stored, obj, namespace):
    changed = bare(obj, namespace)
    changed["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    path = f"{url(obj, namespace)}/{obj['metadata']['name']}"
    return api.put(path, json=changed, params={"dryRun": "All", "fieldValidation": "Strict"})


@pytest.mark.parametrize("case", REFUSED, ids=str)
@pytest.mark.row(11, 43, 71, 79)
def test_refused_with_the_field_and_what_is_allowed(case, api, namespace, existing):
    if case.before is None:
        reply = create(api, case.object, namespace, dryRun="All")
    else:
        reply = update(api, existing(case.before), case.object, namespace)
    message = reply.json().get("message", "")
    assert reply.status_code in (400, 422), f"accepted: {reply.text}"
    assert [part for part in case.says if part not in message] == [], message


@pytest.mark.parametrize("obj", ACCEPTED, ids=lambda o: f"{o['kind']}-{o['metadata']['name'][:20]}")
def test_accepted(obj, api, namespace):
    reply = create(api, obj, namespace, dryRun="All")
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(("before", "after"), CHANGED, ids=lambda o: o["kind"])
def test_change_allowed(before, after, api, namespace, existing):
    reply = update(api, existing(before), after, namespace)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("make", [make_finetunejob, make_evaluation, make_modeldeployment])
def test_a_new_object_has_a_status_of_no_generation_and_nested_defaults(make, existing):
    stored = existing(make())
    assert stored["status"] == {"observedGeneration": -1}
    model = {"FineTuneJob": "training", "Evaluation": "servingProfile", "ModelDeployment": "server"}[stored["kind"]]
    assert stored["spec"][model], "nested defaults were not filled in"


def test_defaults_of_the_server_are_those_of_the_models(existing):
    from luthier.api.kinds import KINDS

    for kind, make in zip(KINDS, (make_finetunejob, make_evaluation, make_modeldeployment), strict=True):
        assert existing(make())["spec"] == kind.spec.model_validate(make()["spec"]).to_json()


def test_status_is_written_through_its_subresource_only(api, namespace, existing):
    stored = existing(make_evaluation())
    path = f"{url(stored, namespace)}/{stored['metadata']['name']}"
    merge = {"content-type": "application/merge-patch+json"}
    patch = json.dumps({"status": {"summary": "all well", "observedGeneration": 1}})
    assert api.patch(path, content=patch, headers=merge).json()["status"] == {"observedGeneration": -1}
    assert api.patch(f"{path}/status", content=patch, headers=merge).json()["status"]["summary"] == "all well"


def test_kubectl_shows_our_columns_and_explains_fields(kubectl, namespace, existing):
    existing(make_modeldeployment())
    header = kubectl("get", "mdep", "-n", namespace).stdout.splitlines()[0].split()
    assert header == ["NAME", "SERVING", "STABLE", "CANDIDATE", "STEP", "WEIGHT", "VERDICT", "SINCE"]
    listed = kubectl("get", "luthier", "-n", namespace, "-o", "name").stdout
    assert "modeldeployment.luthier.dev/support" in listed
    explained = kubectl("explain", "ftj.spec.training.learningRate").stdout
    assert "Peak learning rate" in explained


def test_kubectl_refuses_an_unknown_field_by_default(kubectl, namespace):
    obj = bare(make_finetunejob(training={"epoch": 3}), namespace)
    done = kubectl("apply", "-f", "-", stdin=json.dumps(obj), check=False)
    assert done.returncode != 0
    assert 'unknown field "spec.training.epoch"' in done.stderr
