"""What a ModelDeployment's children look like, to the letter."""

from __future__ import annotations

import pytest

from factories import make_modeldeployment
from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.deployment.build import Backend, build_deployment, build_route, build_service, build_template
from luthier.deployment.feedback import build_key
from luthier.deployment.revision import (
    Evidence,
    Model,
    Revision,
    build_record,
    hash_intent,
    hash_revision,
    parse_record,
)
from luthier.settings import Settings

OWNER = make_modeldeployment(
    replicas=2,
    responseSchema='{"type":"object"}',
    resources={"limits": {"nvidia.com/gpu": "1", "cpu": "4", "memory": "24Gi"}},
    scheduling={"nodeSelector": {"pool": "gpu"}},
    gateway={"hostnames": ["support.example"], "pathPrefix": "/v1"},
)
SPEC = ModelDeploymentSpec.model_validate(OWNER["spec"])
MODEL = Model(
    artifact_uri="pvc://artifacts/tickets/v1",
    model_digest="sha256:" + "a" * 64,
    base_uri="pvc://models/smol",
    base_digest="sha256:" + "b" * 64,
)
HASH = hash_revision(SPEC, MODEL)
NAME = f"r7-{HASH}"
REVISION = Revision(
    name=NAME,
    number=7,
    hash=HASH,
    intent=hash_intent(SPEC),
    model=MODEL,
    evidence=Evidence(name="tickets-eval", uid="e-uid", verdict="Passed", summary="82 % exact"),
    template=build_template(OWNER, SPEC, MODEL, name=NAME, settings=Settings()),
)
VOTED = ModelDeploymentSpec.model_validate({**OWNER["spec"], "feedback": {"identityHeader": "x-user"}})


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("serving-deployment", build_deployment(OWNER, REVISION, replicas=2)),
        ("serving-template-with-votes", build_template(OWNER, VOTED, MODEL, name=NAME, settings=Settings())),
        ("serving-feedback-key", build_key(OWNER)),
        ("serving-service", build_service(OWNER, REVISION)),
        ("serving-revision", build_record(OWNER, REVISION)),
        (
            "serving-route",
            build_route(OWNER, SPEC, (Backend(revision="r6-00000000", weight=90), Backend(revision=NAME, weight=10))),
        ),
    ],
)
def test_manifests(golden, name, manifest):
    golden(name, manifest)


def test_a_record_reads_back_as_the_revision():
    again = parse_record(build_record(OWNER, REVISION))
    assert again == Revision(**{**vars(REVISION), "obj": again.obj})


def test_names_of_the_longest_objects_fit():
    owner = make_modeldeployment("a" * 40)
    revision = Revision(**{**vars(REVISION), "name": f"r9999-{HASH}"})
    for manifest in (build_deployment(owner, revision, replicas=1), build_service(owner, revision)):
        assert len(manifest["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 5},
        {"servedModelName": "other"},
        {"requireEvaluation": {"name": "another"}},
        {"gateway": {"hostnames": ["b.example"]}},
        {"scheduling": {"nodeSelector": {"pool": "cpu"}}},
        {"rollout": None},
        {"suspend": True},
    ],
)
def test_what_is_outside_the_hash(change):
    spec = ModelDeploymentSpec.model_validate(make_modeldeployment(**{**_base(), **change})["spec"])
    assert hash_revision(spec, MODEL) == HASH


@pytest.mark.parametrize(
    "change",
    [
        {"server": {"maxNumSeqs": 1}},
        {"server": {"profile": {"maxModelLen": 256}}},
        {"server": {"enforceEager": True}},
        {"resources": None},
        {"responseSchema": "{}"},
        {"feedback": {}},
        {"feedback": {"identityHeader": "x-user"}},
    ],
)
def test_what_is_inside_the_hash(change):
    spec = ModelDeploymentSpec.model_validate(make_modeldeployment(**{**_base(), **change})["spec"])
    assert hash_revision(spec, MODEL) != HASH


def _base():
    return {k: v for k, v in OWNER["spec"].items() if k in ("replicas", "responseSchema", "resources", "scheduling")}
