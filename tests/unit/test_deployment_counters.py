"""Raw samples become counts per look: resets, new pods, late samples, other edges."""

from __future__ import annotations

import pytest

from luthier.deployment.counters import (
    Edges,
    PodCounters,
    edge_above,
    nearest_edge,
    pods_from_json,
    pods_to_json,
    split_by_look,
    timelines,
)
from luthier.ports import Sample
from luthier_server.counters import EDGES, edge_label

ARMS = {"a-r2-": "candidate", "a-r1-": "stable"}


def series(name: str, pod: str, values: dict[float, float], **labels: str) -> list[Sample]:
    base = {"__name__": name, "pod": pod, "pod_uid": f"uid-{pod}", **labels}
    return [Sample(labels=base, value=v, at=at) for at, v in values.items()]


def started(pod: str, values: dict[float, float]) -> list[Sample]:
    return series("luthier_requests_started_total", pod, values)


def per_look(samples, *, pods=None, after=0.0, seconds=5.0, looks=2, edges=None):
    found = timelines(samples, arms=ARMS, edges=edges or Edges())
    return split_by_look(found, pods or {}, after=after, seconds=seconds, looks=looks)


def test_increments_fall_into_the_look_of_their_scrape():
    counts, pods = per_look(started("a-r2-x", {-1: 10, 2: 12, 5: 13, 7: 20}))
    assert [c.candidate["started"] for c in counts] == [3, 7]
    assert pods["uid-a-r2-x"].at == 7


@pytest.mark.row(51)
def test_a_decrease_is_a_restart_from_zero():
    counts, _ = per_look(started("a-r2-x", {-1: 10, 2: 12, 4: 3}))
    assert counts[0].candidate["started"] == 2 + 3


@pytest.mark.row(51)
def test_a_restart_is_seen_by_any_counter_and_holds_for_all_of_the_pod():
    bad = series("luthier_requests_total", "a-r2-x", {-1: 0, 2: 0, 4: 9}, outcome="refused")
    counts, _ = per_look([*started("a-r2-x", {-1: 10, 2: 10, 4: 9}), *bad])
    assert counts[0].candidate["bad"] == 9
    caught_up = series("luthier_requests_total", "a-r2-x", {-1: 2, 2: 2, 4: 3}, outcome="refused")
    counts, _ = per_look([*started("a-r2-x", {-1: 10, 2: 10, 4: 4}), *caught_up])
    assert (counts[0].candidate["bad"], counts[0].candidate["started"]) == (3, 4)


def test_a_pod_that_was_never_seen_counts_from_zero():
    counts, _ = per_look(started("a-r2-x", {2: 4, 4: 6}))
    assert counts[0].candidate["started"] == 6


def test_a_pod_that_ran_before_does_not_bring_its_past():
    counts, _ = per_look(started("a-r1-x", {-3: 1000, 2: 1001}))
    assert counts[0].stable["started"] == 1


def test_a_late_sample_is_counted_at_the_next_look():
    known = {"uid-a-r2-x": PodCounters(arm="candidate", at=1, values={"started": 5})}
    counts, _ = per_look(started("a-r2-x", {1: 5, 3: 9}), pods=known, after=4)
    assert [c.candidate["started"] for c in counts] == [4, 0]


def test_a_late_sample_waits_while_no_look_is_over():
    known = {"uid-a-r2-x": PodCounters(arm="candidate", at=1, values={"started": 5})}
    assert per_look(started("a-r2-x", {1: 5, 3: 9}), pods=known, after=4, looks=0) == ([], known)


def test_a_sample_after_the_last_look_waits():
    counts, pods = per_look(started("a-r2-x", {2: 4, 11: 9}))
    assert sum(c.candidate["started"] for c in counts) == 4
    assert pods["uid-a-r2-x"].at == 2


def test_only_bad_outcomes_are_bad():
    samples = []
    for outcome in ("ok", "refused", "server_error", "stream_broken", "overloaded", "client_abort", "unauthorised"):
        samples += series("luthier_requests_total", "a-r2-x", {-1: 0, 2: 1}, outcome=outcome)
    counts, _ = per_look(samples)
    assert counts[0].candidate["bad"] == 4


def test_each_side_reads_its_own_edge():
    edges = Edges(slow_candidate=4, slow_stable=2, over=10)
    samples = []
    for pod in ("a-r1-x", "a-r2-x"):
        for index in (2, 4, 10):
            values = {-1: 0, 2: 100 + index}
            samples += series("luthier_request_age_exceeded_total", pod, values, edge=edge_label(EDGES[index]))
    counts, _ = per_look(samples, edges=edges)
    assert (counts[0].candidate["slow"], counts[0].stable["slow"]) == (104, 102)
    assert (counts[0].candidate["over"], counts[0].stable["over"]) == (110, 110)


def test_a_new_edge_does_not_count_what_it_had_counted_before():
    edges = Edges(slow_candidate=4, slow_stable=2)
    known = {"uid-a-r1-x": PodCounters(arm="stable", at=1, values={"started": 5})}
    values = {1: 50, 3: 53}
    samples = series("luthier_request_age_exceeded_total", "a-r1-x", values, edge=edge_label(EDGES[2]))
    counts, _ = per_look(samples, pods=known, after=1, edges=edges)
    assert counts[0].stable["slow"] == 3


def test_pods_of_others_are_left_out():
    counts, pods = per_look(started("b-r2-x", {2: 4}))
    assert counts[0].candidate["started"] == 0
    assert pods == {}


def test_pods_survive_json():
    known = {"u": PodCounters(arm="stable", at=1.5, values={"started": 5, "slow": 2})}
    assert pods_from_json(pods_to_json(known)) == known


def test_an_edge_is_found_by_its_seconds():
    assert nearest_edge(EDGES[17] * 1.01) == 17
    assert EDGES[edge_above(10)] >= 10 > EDGES[edge_above(10) - 1]
    assert EDGES[19] / EDGES[17] == 1.2
