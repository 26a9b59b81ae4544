"""The chart's admission policy on a real API server: who may order what, by spec and by annotation."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from factories import make_modeldeployment
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
CHART = Path(__file__).resolve().parents[2] / "helm"
REVISION = "r2-aaaaaaaa"
ACTS = {
    "approve": {"revision": REVISION, "step": 2},
    "abort": {"revision": REVISION},
    "retry": {"revision": REVISION},
    "promote": {"revision": REVISION, "skipAnalysis": True, "by": "rita", "reason": "why"},
    "pin": {"revision": REVISION},
    "windows": [{"schedule": "0 9 * * *", "durationSeconds": 60}],
}


@pytest.fixture(scope="module")
def policy(kubectl, installed) -> Iterator[None]:
    """Install the policy as the chart renders it: only release managers, and the user root, may act."""
    from localcluster import deps
    from localcluster.progress import Progress

    people = {act: {"groups": ["release-managers"], "users": ["root"]} for act in ACTS}
    values = json.dumps({"enabled": True, "bySelf": True, **people})
    command = [shutil.which("helm") or str(deps.helm(Progress(1))), "template", "luthier", str(CHART)]
    rendered = subprocess.run(
        [*command, "--set-json", f"actPolicy={values}", "--show-only", "templates/actpolicy.yaml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    everybody = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    everybody |= {
        "metadata": {"name": "test-editors"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name} for name in ("dora", "rita")
        ],
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(everybody))
    kubectl("apply", "-f", "-", stdin=rendered)
    yield
    kubectl("delete", "-f", "-", stdin=rendered)
    kubectl("delete", "clusterrolebinding", "test-editors")


class Person:
    """Somebody who may edit ModelDeployments."""

    def __init__(self, api: httpx.Client, namespace: str, name: str, *groups: str) -> None:
        self._api = api
        self._url = f"/apis/luthier.dev/v1alpha1/namespaces/{namespace}/modeldeployments"
        self._who = [("Impersonate-User", name), *(("Impersonate-Group", group) for group in groups)]

    def create(self, name: str, *, annotations: dict[str, str] | None = None, **spec: Any) -> httpx.Response:
        body = {**make_modeldeployment(**spec), "metadata": {"name": name, "annotations": annotations or {}}}
        return self._api.post(self._url, json=body, headers=httpx.Headers(self._who))

    def change(self, name: str, body: dict[str, Any]) -> httpx.Response:
        headers = httpx.Headers([*self._who, ("Content-Type", "application/merge-patch+json")])
        return self._api.patch(f"{self._url}/{name}", content=json.dumps(body), headers=headers)


@pytest.fixture
def people(api: httpx.Client, namespace: str, policy: None) -> tuple[Person, Person]:
    """Return a developer and a release manager, once the policy is at work."""
    dora = Person(api, namespace, "dora", "developers", "system:authenticated")
    rita = Person(api, namespace, "rita", "release-managers", "system:authenticated")
    assert dora.create("support").status_code == 201
    tries = itertools.count()

    def is_refused() -> bool:  # each try with a new value: one that got through before is no change
        probe = {"metadata": {"annotations": {"luthier.dev/abort": f"probe-{next(tries)}"}}}
        return dora.change("support", probe).status_code == 403

    until(is_refused, "the policy is at work", seconds=60)
    undo = {"metadata": {"annotations": {"luthier.dev/abort": None}}}
    assert rita.change("support", undo).status_code == 200
    return dora, rita


def test_only_those_who_are_named_change_an_act(people):
    dora, rita = people
    for act, value in ACTS.items():
        order = {"spec": {"rollout": {act: value}}}
        refused = dora.change("support", order)
        assert refused.status_code == 403, (act, refused.text)
        assert f"dora may not change spec.rollout.{act}" in refused.json()["message"]
        assert f"actPolicy.{act}" in refused.json()["message"]
        assert rita.change("support", order).status_code == 200, act
        away = {"spec": {"rollout": {act: None}}}
        assert dora.change("support", away).status_code == 403, f"{act} may be taken away"


def test_only_those_who_are_named_change_an_annotation(people):
    dora, rita = people
    for act in ("approve", "abort", "retry", "promote"):
        order = {"metadata": {"annotations": {f"luthier.dev/{act}": REVISION}}}
        refused = dora.change("support", order)
        assert refused.status_code == 403, act
        assert f"or the annotation luthier.dev/{act}" in refused.json()["message"]
        assert rita.change("support", order).status_code == 200
    assert dora.change("support", {"metadata": {"annotations": {"team": "blue"}}}).status_code == 200


def test_everybody_changes_the_rest_beside_acts_that_stand(people):
    dora, rita = people
    assert rita.change("support", {"spec": {"rollout": {"pin": ACTS["pin"]}}}).status_code == 200
    assert dora.change("support", {"spec": {"replicas": 2}}).status_code == 200
    assert dora.change("support", {"spec": {"rollout": {"steps": [{"setWeight": 5}]}}}).status_code == 200


def test_no_act_comes_with_a_new_object(people):
    dora, rita = people
    assert dora.create("pinned", rollout={"pin": ACTS["pin"]}).status_code == 403
    assert dora.create("approved", annotations={"luthier.dev/approve": "r1-aaaaaaaa/1"}).status_code == 403
    assert dora.create("plain", rollout=None).status_code == 201
    assert rita.create("pinned", rollout={"pin": ACTS["pin"]}).status_code == 201


def test_nobody_signs_for_another(people):
    dora, rita = people
    order = {"spec": {"rollout": {"promote": {**ACTS["promote"], "by": "dora"}}}}
    refused = rita.change("support", order)
    assert refused.status_code == 403
    assert "by must be who you are: rita" in refused.json()["message"]
    assert rita.change("support", {"spec": {"rollout": {"promote": ACTS["promote"]}}}).status_code == 200
    # What stands there, signed by rita, does not keep others from the rest.
    assert dora.change("support", {"spec": {"replicas": 3}}).status_code == 200


def test_the_operator_writes_its_status(people, api, namespace):
    url = f"/apis/luthier.dev/v1alpha1/namespaces/{namespace}/modeldeployments/support/status"
    headers = httpx.Headers([("Impersonate-User", "dora"), ("Content-Type", "application/merge-patch+json")])
    done = api.patch(url, content=json.dumps({"status": {"verdict": "NotYet"}}), headers=headers)
    assert done.status_code == 200, done.text
