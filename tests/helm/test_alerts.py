"""Alerts fire on what the operator and the server really export, and each leads to a page that says what to type."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exported import asked, matchers, promtool, series
from luthier.api.conditions import Reason

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "helm" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
RUNBOOKS = (ROOT / "docs" / "operations.md").read_text()


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def headings() -> dict[str, str]:
    """Return each second-level section of the runbooks by its anchor."""
    parts = re.split(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE)[1:]
    return {title.lower().replace(" ", "-"): text for title, text in zip(parts[::2], parts[1::2], strict=True)}


def test_promtool_accepts_the_alerts():
    done = promtool("check", "rules", ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_and_keeps_quiet_as_its_tests_say():
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_tests_and_a_runbook(alert):
    name = alert["alert"]
    tests = [t for case in yaml.safe_load(CASES.read_text())["tests"] for t in case["alert_rule_test"]]
    fires = {bool(t["exp_alerts"]) for t in tests if t["alertname"] == name}
    assert fires == {True, False}, "one test in which it fires, and one in which it does not"
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert (page, anchor) == ("docs/operations.md", name.lower())
    runbook = headings()[anchor]
    assert all(f"**{part}**" in runbook for part in ("Means", "Done already", "Type"))
    assert alert["labels"]["severity"] in ("page", "ticket")


def test_a_runbook_is_about_an_alert():
    assert set(headings()) == {alert["alert"].lower() for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_series_and_labels_that_exist(alert):
    known = series()
    assert asked(alert["expr"])
    assert asked(alert["expr"]) <= set(known)
    for name, labels in matchers(alert["expr"]):
        assert labels <= known[name]


def test_an_alert_asks_for_reasons_that_the_operator_gives():
    reasons = {r for text in re.findall(r'reason=~?"([^"]+)"', ALERTS.read_text()) for r in text.split("|")}
    assert reasons
    assert reasons <= {str(reason) for reason in Reason}
    source = "".join(p.read_text() for p in sorted((ROOT / "operator/luthier/deployment").glob("*.py")))
    codes = re.findall(r'code=~?"([^"]+)"', ALERTS.read_text())
    assert codes
    assert all(f'"{code}"' in source for text in codes for code in text.split("|"))


def test_links_of_the_runbooks_lead_somewhere():
    for page, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", RUNBOOKS):
        text = (ROOT / "docs" / page).read_text() if page else RUNBOOKS
        titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, anchor


def test_the_chart_puts_your_runbooks_address_into_each_alert():
    from localcluster import deps
    from localcluster.progress import Progress

    helm = shutil.which("helm") or str(deps.helm(Progress(1)))
    url = "https://wiki.example/luthier"
    sets = ("--set", "prometheusRule.enabled=true", "--set", f"prometheusRule.runbooks={url}")
    done = subprocess.run(
        [helm, "template", "luthier", str(ROOT / "helm"), "--show-only", "templates/prometheusrule.yaml", *sets],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    groups = yaml.safe_load(done.stdout)["spec"]["groups"]
    links = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
    assert len(links) == len(alerts())
    assert all(link.startswith(f"{url}#luthier") for link in links)
