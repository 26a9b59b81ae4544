"""The whole chain on a real node, with the tiny model: trained, judged, rolled out, taken back.

The operator is killed after each `kubectl apply`: the end must be the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from demo_assets.tickets import TEAM
from story import Story, condition

pytestmark = [pytest.mark.node, pytest.mark.images, pytest.mark.slow]
Json = dict[str, Any]
TRAIN, FINAL = 0, 2
"""The splits of the phrases that this story trains on and is judged by."""


@dataclass(kw_only=True)
class HarshStory(Story):
    """Kills the operator's pod right after each apply, and keeps what it had logged."""

    logs: list[str] = field(default_factory=list)

    def operator_logs(self) -> str:
        newest = self.kubectl(
            "-n", "luthier-system", "logs", "-l", "app.kubernetes.io/name=luthier", "--tail=-1", check=False
        )
        return "\n".join([*self.logs, newest])

    def apply(self, file: str) -> None:
        super().apply(file)
        self.logs = [self.operator_logs()]
        self.kubectl(
            "-n", "luthier-system", "delete", "pod", "-l", "app.kubernetes.io/name=luthier",
            "--grace-period=0", "--force", "--wait=false",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Told:
    """What every step left behind."""

    story: HarshStory
    tuned: Json
    judged: Json
    first: Json
    second: Json
    unfit_judged: Json
    end: Json
    totals_before_unfit: Json


@pytest.fixture(scope="session")
def told(node) -> Told:
    story = HarshStory(folder="tiny", namespace="luthier-tiny", env=node)
    story.kubectl("delete", "namespace", story.namespace, "--ignore-not-found", "--wait=true", timeout=300)
    story.prepare_namespace()
    tuned = story.fine_tune()
    judged = story.evaluate("03-evaluation.yaml", "tickets", "Evaluate")
    first = story.deploy_first()
    story.start_clients()
    second = story.roll_out()
    unfit_judged = story.evaluate("07-unfit-evaluation.yaml", "tickets-short", "Evaluate the successor")
    totals = story.client_totals()
    end = story.unfit_successor()
    story.stop_clients()
    return Told(
        story=story, tuned=tuned, judged=judged, first=first, second=second,
        unfit_judged=unfit_judged, end=end, totals_before_unfit=totals,
    )  # fmt: skip


@pytest.mark.row(74, 76)
def test_the_adapter_has_a_digest_and_a_cost(told):
    assert condition(told.tuned, "Succeeded")["status"] == "True"
    assert told.tuned["artifact"]["digest"].startswith("sha256:")
    assert told.tuned["cost"]["cpuSeconds"] > 0
    assert told.tuned["progress"]["percent"] == 100


def test_the_evaluation_judged_exactly_these_weights(told):
    assert told.judged["verdict"] == "Passed"
    assert told.judged["modelDigest"] == told.tuned["artifact"]["digest"]
    exact = told.judged["suites"][0]["metrics"][0]
    assert float(exact["target"]["value"]) > float(exact["baselines"][0]["value"]["value"])


def test_the_first_revision_was_promoted_without_a_comparison(told):
    entry = told.first["history"][0]
    assert (entry["outcome"], entry["reason"]) == ("Promoted", "Initial")
    assert told.first["stable"]["modelDigest"] == told.tuned["artifact"]["digest"]


def test_the_second_revision_took_over_without_a_failed_request(told):
    assert told.second["stable"]["number"] == 2
    assert told.second["history"][0]["outcome"] == "Promoted"
    counts = told.totals_before_unfit["revisions"]
    assert sum(n for outcomes in counts.values() for outcome, n in outcomes.items() if outcome != "ok") == 0
    assert {name.split("-")[0] for name in counts} >= {"r1", "r2"}


@pytest.mark.row(53)
def test_the_unfit_successor_passed_its_evaluation_and_was_taken_back(told):
    assert told.unfit_judged["verdict"] == "Passed"
    entry = told.end["history"][0]
    assert (entry["outcome"], entry["revision"].split("-")[0]) == ("RolledBack", "r3")
    errors = next(m for m in entry["metrics"] if m["name"] == "ErrorRate")
    assert errors["candidateBad"] >= 3
    assert float(errors["evidence"]) >= float(errors["threshold"])
    assert told.end["weights"] == {"stable": 100, "candidate": 0}
    assert told.end["stable"]["number"] == 2


@pytest.mark.row(1)
def test_a_rejected_revision_stays_rejected_and_the_stable_serves(told):
    status = told.story.status("mdep", "support")
    assert status["rejected"].startswith("r3-")
    assert condition(status, "Serving")["status"] == "True"
    assert condition(status, "Ready")["status"] == "False"
    assert condition(status, "Stalled")["status"] == "True"


def test_events_read_like_sentences_with_numbers(told):
    events = json.loads(told.story.kubectl("-n", told.story.namespace, "get", "events", "-o", "json"))["items"]
    rolled_back = [e for e in events if e["reason"] == "RolledBack" and e["involvedObject"]["name"] == "support"]
    assert rolled_back
    assert "%" in rolled_back[0]["message"]


def test_the_operator_logged_no_traceback(told):
    logs = told.story.operator_logs()
    assert logs.count("this replica leads") > 5, "the logs of the killed ones are there"
    assert "Traceback" not in logs
    assert "kopf ended" not in logs


@pytest.mark.row(78)
def test_no_ticket_text_is_in_logs_events_or_status(told):
    written = [phrases[split] for phrases in TEAM.values() for split in (TRAIN, FINAL)]
    marks = [max(phrase.split("{p}"), key=len).strip() for phrases in written for phrase in phrases]
    namespace = told.story.namespace
    seen = told.story.operator_logs() + told.story.kubectl("-n", namespace, "get", "ftj,evl,mdep,events", "-o", "json")
    pods = told.story.kubectl("-n", namespace, "get", "pods", "-o", "name").split()
    seen += "".join(told.story.kubectl("-n", namespace, "logs", pod, "--all-containers", check=False) for pod in pods)
    assert [mark for mark in marks if mark in seen] == []


def test_the_reports_stand_with_the_artifact(told):
    told.story.apply("09-reports.yaml")
    told.story.kubectl("-n", told.story.namespace, "rollout", "status", "deploy/reports", "--timeout=120s")
    find = ("find", "/work/artifacts", "-name", "report.html")
    listing = told.story.kubectl("-n", told.story.namespace, "exec", "deploy/reports", "--", *find)
    assert "/evaluations/tickets-" in listing
