"""Dashboards parse, name only what is exported, find something in it, and take their data source from a variable."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exported import asked, matchers, promtool, series
from luthier_server.counters import EDGES, edge_label

CHART = Path(__file__).parents[2] / "helm"
FILES = sorted((CHART / "dashboards").glob("*.json"))
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRAFANA = {"$__rate_interval": "5m", "$namespace": "team", "$name": "support", "$revision": "r1-a"}
VALUES = {
    "namespace": ["team"],
    "name": ["support"],
    "revision": ["r1-a", "r2-b"],
    "role": ["stable", "candidate"],
    "outcome": ["ok", "server_error"],
    "edge": ["1.045", "10.21"],
    "le": ["0.1", "+Inf"],
    "pod": ["a", "b"],
    "rating": ["up", "down"],
}
"""What a Prometheus with two replicas of the operator and two revisions of one model has."""


def panels(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text())["panels"]


def expressions() -> list[tuple[str, str, str]]:
    """Return (where, expression as Grafana sends it, legend)."""
    found = []
    for file in FILES:
        for panel in panels(file):
            for target in panel["targets"]:
                text = target["expr"]
                for variable, value in GRAFANA.items():
                    text = text.replace(variable, value)
                found.append((f"{file.stem}: {panel['title']}", text, target["legendFormat"]))
    return found


def test_there_is_one_for_the_fleet_a_rollout_and_a_model():
    assert [file.stem for file in FILES] == ["luthier-fleet", "luthier-model", "luthier-rollout"]


def test_promtool_parses_each_expression(tmp_path):
    rules = [{"record": f"x:{number}", "expr": e} for number, (_, e, _) in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize(("where", "expression", "legend"), expressions(), ids=lambda value: value[:60])
def test_an_expression_names_series_and_labels_that_are_exported(where, expression, legend):
    known = series()
    assert "$" not in expression, "a variable that no dashboard has"
    assert asked(expression)
    assert asked(expression) <= set(known), where
    for name, labels in matchers(expression):
        assert labels <= known[name], where
    grouped = {
        label.strip() for text in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in text.split(",")
    }
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert shown <= grouped <= frozenset.union(*known.values()), where
    edges = {edge for text in re.findall(r'edge=~?"([^"]+)"', expression) for edge in text.split("|")}
    assert edges <= {edge_label(edge) for edge in EDGES}


def test_each_expression_finds_something_in_a_prometheus_that_scrapes_us(tmp_path):
    file = tmp_path / "found.yaml"
    tests = [{"expr": expression, "eval_time": "10m", "exp_samples": []} for _, expression, _ in expressions()]
    case = {"interval": "30s", "input_series": list(samples()), "promql_expr_test": tests}
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "30s", "tests": [case]}))
    done = promtool("test", "rules", file)
    found = (done.stdout + done.stderr).count("got: {")
    assert found == len(tests), f"{len(tests) - found} found nothing or failed:\n{done.stdout}{done.stderr}"


def samples() -> Iterator[dict[str, str]]:
    for name, labels in series().items():
        wanted = sorted(labels - {"pod_uid", "instance", "job"})
        for values in itertools.product(*(VALUES.get(label, ["x"]) for label in wanted)):
            own = dict(zip(wanted, values, strict=True))
            if name == "luthier_revision" and (own["role"] == "stable") != (own["revision"] == "r1-a"):
                continue
            text = ", ".join(f'{label}="{value}"' for label, value in own.items())
            yield {"series": f"{name}{{{text}}}", "values": "1+1x40"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_data_source_is_a_variable_and_so_is_all_that_differs(file):
    board = json.loads(file.read_text())
    variables = board["templating"]["list"]
    assert (variables[0]["name"], variables[0]["type"]) == ("datasource", "datasource")
    for variable in variables[1:]:
        assert variable["datasource"] == SOURCE
        match = re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", variable["query"]["query"])
        assert match is not None
        assert match[2] in series()[match[1]]
        assert f"${variable['name']}" in GRAFANA
    parts = [part for panel in board["panels"] for part in (panel, *panel["targets"])]
    assert all(part["datasource"] == SOURCE for part in parts)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["description"] for panel in board["panels"])


def test_the_chart_ships_them_for_the_sidecar_and_only_when_asked():
    from localcluster import deps
    from localcluster.progress import Progress

    helm = shutil.which("helm") or str(deps.helm(Progress(1)))

    def render(*sets: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [helm, "template", "luthier", str(CHART), *sets], capture_output=True, text=True, check=True, timeout=60
        )
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    assert "ConfigMap" not in {document["kind"] for document in render()}
    [board] = [d for d in render("--set", "dashboards.enabled=true") if d["kind"] == "ConfigMap"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in board["data"].items()} == {
        file.name: json.loads(file.read_text()) for file in FILES
    }
