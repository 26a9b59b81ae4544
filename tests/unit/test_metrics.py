"""What alerts look at."""

from luthier.metrics import Metrics


def shown(metrics: Metrics) -> list[tuple[str, str]]:
    samples = [s for family in metrics.conditions.collect() for s in family.samples]
    return [(s.labels["name"], s.labels["reason"]) for s in samples]


def deployment(name: str, *conditions: tuple[str, str]) -> dict:
    listed = [{"type": kind, "status": "True", "reason": reason} for kind, reason in conditions]
    meta = {"namespace": "team", "name": name}
    return {"kind": "ModelDeployment", "metadata": meta, "status": {"conditions": listed}}


def test_only_what_is_going_on_or_wrong_is_shown():
    metrics = Metrics()
    metrics.show([deployment("a", ("Ready", "Promoted")), deployment("b", ("Stalled", "RolledBack"))])
    assert shown(metrics) == [("b", "RolledBack")]


def test_what_is_over_is_forgotten():
    metrics = Metrics()
    metrics.show([deployment("b", ("Stalled", "RolledBack"))])
    metrics.show([deployment("b")])
    assert shown(metrics) == []
