"""The rendered chart: rights as narrow as the code needs, Pod Security restricted, values refused by schema."""

from __future__ import annotations

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


def test_no_rule_is_a_wildcard_and_none_touches_secrets(helm):
    for document in render(helm):
        for rule in document.get("rules", []) if document["kind"] in ("Role", "ClusterRole") else []:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_watching_all_namespaces_takes_a_cluster_role(helm):
    documents = render(helm)
    rules = named(documents, "ClusterRole", "luthier")["rules"]
    assert {"finetunejobs", "evaluations", "modeldeployments"} <= {r for rule in rules for r in rule["resources"]}


def test_watching_two_namespaces_takes_a_role_in_each_and_no_cluster_role(helm):
    documents = render(helm, 'watchNamespaces=["team-a","team-b"]')
    assert not [d for d in documents if d["kind"] == "ClusterRole" and d["metadata"]["name"] == "luthier"]
    roles = [d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "luthier"]
    assert [r["metadata"]["namespace"] for r in roles] == ["team-a", "team-b"]
    everywhere = named(render(helm), "ClusterRole", "luthier")["rules"]
    assert all(role["rules"] == everywhere for role in roles)


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
    assert settings.default_serving_resources.limits == {"cpu": "2", "memory": "6Gi"}
    known = {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    assert {item["name"] for item in env} <= known


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
    alerts = [r for g in named(documents, "PrometheusRule", "luthier")["spec"]["groups"] for r in g["rules"]]
    operations = (CHART.parent / "docs" / "operations.md").read_text()
    assert alerts
    assert all(f"## {alert['alert']}" in operations for alert in alerts)


def test_promtool_accepts_the_alerts():
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus (hack/cluster up does it)"
    done = subprocess.run(
        [promtool, "check", "rules", str(CHART / "alerts.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
