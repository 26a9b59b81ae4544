"""Acts of people on a real API server: by spec, by `kubectl annotate`, and what each leaves behind."""

from __future__ import annotations

import pytest

from servingstage import Stage
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def candidate(stage: Stage) -> str:
    return stage.status().get("candidate", {}).get("name", "")


def reach_pause(stage: Stage) -> str:
    stage.successor()
    until(lambda: stage.condition("Ready") == "False/WaitingForApproval", "the pause is reached", seconds=90)
    return candidate(stage)


def test_a_pause_is_approved_by_annotation_and_a_pin_brings_the_older_revision_back(serving: Stage, kubectl):
    name = reach_pause(serving)
    first = serving.status()["stable"]["name"]
    kubectl("annotate", "mdep", "support", "-n", serving.namespace, f"luthier.dev/approve={name}/4")
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
    until(lambda: not serving.pods_of("r1"), "the pods of r1 are gone", seconds=60)
    serving.down = True  # a way back asks no Prometheus
    serving.change(rollout={"pin": {"revision": first, "by": "alice", "reason": "r2 is rude"}})
    until(lambda: serving.weights() == {"r1": 100}, "r1 has everything again", seconds=60)
    until(lambda: serving.condition("Overridden") == "True/Pinned", "and it is said")
    until(lambda: serving.stable() == "r1", "r1 is the stable", seconds=30)
    assert serving.condition("Ready") == "False/Pinned"
    assert serving.status()["history"][0]["by"] == "alice"
    serving.down = False
    serving.change(rollout={"pin": None})
    until(lambda: candidate(serving).startswith("r3-"), "the spec counts again", seconds=30)


def test_a_promotion_without_analysis_needs_a_name_and_passes_what_is_undecided(serving: Stage):
    serving.change(rollout={"analysis": {"minSamples": 1_000_000}})
    serving.successor()
    until(lambda: serving.weights().get("r2"), "r2 has traffic", seconds=60)
    act = {"revision": candidate(serving), "skipAnalysis": True}
    assert "needs by and reason" in serving.refused(rollout={"promote": act})
    serving.change(rollout={"promote": act | {"by": "alice", "reason": "the stable leaks"}})
    until(lambda: serving.weights() == {"r2": 100}, "r2 has everything", seconds=60)
    until(lambda: serving.stable() == "r2", "r2 is the stable", seconds=30)
    entry = serving.status()["history"][0]
    assert (entry["reason"], entry["by"]) == ("AnalysisSkipped", "alice")


def test_a_freeze_holds_without_a_restart_and_a_window_holds_by_itself(serving: Stage, kubectl):
    where = ("-n", serving.namespace)
    kubectl("create", "configmap", "luthier-freeze", *where, "--from-literal=reason=launch day")
    until(lambda: serving.condition("Held") == "True/Frozen", "the object says so", seconds=30)
    assert serving.condition("Ready") == "True/Initial"
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/Frozen", "the successor is not tried", seconds=30)
    assert not candidate(serving)
    serving.change(rollout={"windows": [{"schedule": "0 0 29 2 *", "durationSeconds": 60}]})
    kubectl("delete", "configmap", "luthier-freeze", *where)
    until(lambda: serving.condition("Ready") == "False/OutsideWindow", "the window holds it now", seconds=30)
    assert serving.condition("Held") is None
    serving.change(rollout={"windows": [{"schedule": "* * * * *", "durationSeconds": 60, "timeZone": "Mars/Olympus"}]})
    until(lambda: serving.condition("Stalled") == "True/InvalidSpec", "there is no such zone", seconds=30)
    assert "windows" in serving.refused(rollout={"windows": [{"schedule": "daily", "durationSeconds": 60}]})
    serving.change(rollout={"windows": [{"schedule": "* * * * *", "durationSeconds": 120}]})
    until(lambda: candidate(serving).startswith("r2-"), "it is tried", seconds=30)
