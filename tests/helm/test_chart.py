"""The rendered chart: rights as narrow as the code needs, Pod Security restricted, values refused by schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm"


@pytest.fixture(scope="session")
def helm() -> str:
    from localcluster import deps
    from localcluster.progress import Progress

    return shutil.which("helm") or str(deps.helm(Progress(1)))


def run(helm: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *args], capture_output=True, text=True, check=False, timeout=60)


def render(helm: str, *sets: str) -> list[dict[str, Any]]:
    options = [option for value in sets for option in ("--set-json", value)]
    done = run(helm, "template", "luthier", str(CHART), "--namespace", "luthier-system", *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


def test_lint_is_clean(helm):
    done = run(helm, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.row(73)
def test_no_rule_is_a_wildcard_and_none_touches_secrets(helm):
    for document in render(helm):
        for rule in document.get("rules", []) if document["kind"] in ("Role", "ClusterRole") else []:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


@pytest.mark.parametrize("namespaces", ["[]", '["team-a","team-b"]'])
def test_with_feedback_it_may_make_secrets_and_do_nothing_else_with_them(helm, namespaces):
    documents = render(helm, 'feedback={"enabled":true}', f"watchNamespaces={namespaces}")
    plain = render(helm, f"watchNamespaces={namespaces}")
    more = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}
    for document in plain:
        if document["kind"] in ("Role", "ClusterRole"):
            [now] = [
                d
                for d in documents
                if (d["kind"], d["metadata"]["name"]) == (document["kind"], document["metadata"]["name"])
                and d["metadata"].get("namespace") == document["metadata"].get("namespace")
            ]
            is_working = any("httproutes" in rule["resources"] for rule in document["rules"])
            assert now["rules"] == document["rules"] + ([more] if is_working else [])


def test_the_operator_may_do_what_it_does_and_no_more(helm):
    rules = named(render(helm), "ClusterRole", "luthier")["rules"]
    granted = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    read = {"get", "list", "watch"}
    kinds = ("finetunejobs", "evaluations", "modeldeployments")
    assert granted == {
        **dict.fromkeys(kinds, read),
        **{f"{kind}/status": {"update"} for kind in kinds},
        "jobs": read | {"create", "delete"},
        "deployments": read | {"create", "patch", "delete"},
        "controllerrevisions": read | {"create", "delete"},
        "services": read | {"create", "patch", "delete"},
        "httproutes": read | {"create", "update"},
        "gateways": {"get"},
        "gatewayclasses": {"get"},
        "backendtrafficpolicies": read | {"create", "patch", "delete"},
        "pods": {"list", "watch"},
        "persistentvolumeclaims": {"get"},
        "events": {"create", "patch"},
    }


def test_the_freeze_switch_is_one_name_in_its_own_namespace(helm):
    documents = render(helm, 'freeze="launch day"')
    rules = named(documents, "Role", "luthier-lease")["rules"]
    [switch] = [rule for rule in rules if rule["resources"] == ["configmaps"]]
    assert (switch["resourceNames"], switch["verbs"]) == (["luthier-freeze"], ["get"])
    env = named(documents, "Deployment", "luthier")["spec"]["template"]["spec"]["containers"][0]["env"]
    said = {item["name"]: item.get("value") for item in env}
    assert (said["LUTHIER_FREEZE"], said["LUTHIER_FREEZE_CONFIG_MAP"]) == ("launch day", "luthier-freeze")


def test_who_may_act_is_off_and_named_where_it_is_on(helm):
    assert not [d for d in render(helm) if d["kind"].startswith("ValidatingAdmissionPolicy")]
    documents = render(helm, 'actPolicy={"enabled":true,"pin":{"groups":["sre"]}}', 'watchNamespaces=["team-a"]')
    spec = named(documents, "ValidatingAdmissionPolicy", "luthier-acts")["spec"]
    assert spec["failurePolicy"] == "Fail"
    allowed = {v["name"]: v["expression"] for v in spec["variables"] if v["name"].endswith("Allowed")}
    assert '["sre"]' in allowed["pinAllowed"]
    assert "sre" not in allowed["promoteAllowed"]
    binding = named(documents, "ValidatingAdmissionPolicyBinding", "luthier-acts")["spec"]
    [where] = binding["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert where["values"] == ["team-a"]


def test_the_key_of_hooks_is_a_file_and_no_right(helm, monkeypatch):
    from luthier.settings import Settings

    documents = render(helm, 'hooks={"allowedHosts":["board.example","chat.example:8443"],"secretName":"hook-key"}')
    pod = named(documents, "Deployment", "luthier")["spec"]["template"]["spec"]
    [volume] = [v for v in pod["volumes"] if v["name"] == "hooks"]
    assert volume["secret"]["secretName"] == "hook-key"
    [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "hooks"]
    for item in pod["containers"][0]["env"]:
        if "value" in item:
            monkeypatch.setenv(item["name"], item["value"])
    assert Settings().hook_hosts == ["board.example", "chat.example:8443"]
    assert str(Settings().hook_key_file) == f"{mount['mountPath']}/key"
    plain = named(render(helm), "Deployment", "luthier")["spec"]["template"]["spec"]
    assert not [v for v in plain["volumes"] if "secret" in v]


def test_watching_all_namespaces_takes_a_cluster_role(helm):
    documents = render(helm)
    rules = named(documents, "ClusterRole", "luthier")["rules"]
    assert {"finetunejobs", "evaluations", "modeldeployments"} <= {r for rule in rules for r in rule["resources"]}


def test_watching_two_namespaces_takes_a_role_in_each_and_no_cluster_role(helm):
    documents = render(helm, 'watchNamespaces=["team-a","team-b"]', "userRoles=false")
    assert not [d for d in documents if d["kind"].startswith("ClusterRole")]
    roles = [d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "luthier"]
    assert [r["metadata"]["namespace"] for r in roles] == ["team-a", "team-b"]
    everywhere = named(render(helm), "ClusterRole", "luthier")["rules"]
    assert all(role["rules"] == everywhere for role in roles)


@pytest.mark.row(74)
def test_the_operator_meets_pod_security_restricted(helm):
    pod = named(render(helm), "Deployment", "luthier")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True


def test_the_settings_read_what_the_chart_writes(helm, monkeypatch):
    from luthier.settings import Settings

    documents = render(helm, 'watchNamespaces=["team-a"]', "serverStartupSeconds=77")
    env = named(documents, "Deployment", "luthier")["spec"]["template"]["spec"]["containers"][0]["env"]
    for item in env:
        if "value" in item:
            monkeypatch.setenv(item["name"], item["value"])
    settings = Settings()
    assert settings.watch_namespaces == ["team-a"]
    assert settings.server_startup_seconds == 77
    defaults = [name for name in Settings.model_fields if name.startswith("default_")]
    assert len(defaults) == 4
    assert all(getattr(settings, name) == Settings.model_fields[name].default_factory() for name in defaults)
    known = {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    assert {item["name"] for item in env} <= known


def test_settings_without_a_value_of_their_own_can_be_set(helm):
    secret = {"name": "LUTHIER_PROMETHEUS_HEADERS", "valueFrom": {"secretKeyRef": {"name": "prom", "key": "headers"}}}
    documents = render(helm, f"extraEnv={json.dumps([secret])}")
    assert secret in named(documents, "Deployment", "luthier")["spec"]["template"]["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("image", ["r.example/luthier/operator:v1.0-RC1", "host:5000/o@sha256:" + "a" * 64])
def test_an_image_may_have_any_tag_or_a_digest(helm, image):
    documents = render(helm, f'image.operator="{image}"', 'resources.requests={"cpu": 1}')
    assert named(documents, "Deployment", "luthier")["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_the_crds_stay_when_the_chart_goes(helm):
    crds = [d for d in render(helm) if d["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 3
    assert all(d["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for d in crds)
    assert not [d for d in render(helm, "crds.install=false") if d["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("replicas=0", "replicas"),
        ("replica=2", "replica"),
        ('prometheus.url="prometheus:9090"', "prometheus"),
        ('watchNamespaces=["Team"]', "watchNamespaces"),
        ('logLevel="LOUD"', "logLevel"),
        ('hooks.allowedHosts=["https://board.example"]', "allowedHosts"),
        ('actPolicy={"demote":{}}', "actPolicy"),
    ],
)
def test_a_wrong_value_is_refused_and_named(helm, value, field):
    done = run(helm, "template", "luthier", str(CHART), "--set-json", value)
    assert done.returncode != 0
    assert field in done.stderr


def test_monitors_and_rules_stand_behind_values(helm):
    kinds = {d["kind"] for d in render(helm)}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
    documents = render(helm, "podMonitor.enabled=true", "prometheusRule.enabled=true")
    serving = named(documents, "PodMonitor", "luthier-serving")["spec"]
    relabelled = {r["targetLabel"] for r in serving["podMetricsEndpoints"][0]["relabelings"]}
    assert "pod_uid" in relabelled
    assert serving["podMetricsEndpoints"][0]["interval"] == "2s", "what analysis takes for the scrape interval"
    assert named(documents, "PodMonitor", "luthier")["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True
    training = named(documents, "PodMonitor", "luthier-training")["spec"]
    assert training["podMetricsEndpoints"][0]["port"] == "progress"
