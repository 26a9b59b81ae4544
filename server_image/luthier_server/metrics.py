"""The counters as Prometheus series and as one small JSON. Formats only: counting is in `counters`.

Series are computed at the scrape (ages go on while nothing happens), each with a `revision` label of its own, and
all of them exist from the first scrape on: a series that appears with its first error hides that error from a
difference of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from luthier_server.counters import EDGES, RATINGS, Counters, Histogram, edge_label

SHOWN_REVISIONS = 4
"""Other ones whose votes the JSON shows: a rollout has one, and 4 KiB are soon full."""
_EDGE_LABELS = tuple(edge_label(edge) for edge in EDGES)


class CountersCollector(Collector):
    """Yields the series of `counters`; `clock` is the one that the counters were fed by."""

    def __init__(self, counters: Counters, *, clock: Callable[[], float], started_at: float) -> None:
        self._counters = counters
        self._clock = clock
        self._started_at = started_at

    def collect(self) -> Iterable[Metric]:
        counters, now = self._counters, self._clock()
        revision = [counters.revision]
        for name, text, value in _plain_counters(counters):
            yield _counter(name, text, revision, value)
        yield _labelled(
            "luthier_requests", "Requests by how they ended.", revision, "outcome", counters.outcomes.items()
        )
        yield _labelled(
            "luthier_request_age_exceeded",
            "Requests that lived longer than the edge in seconds, finished or not.",
            revision,
            "edge",
            zip(_EDGE_LABELS, counters.age_exceeded(now), strict=True),
        )
        yield _labelled(
            "luthier_requests_aged",
            "Requests that began longer ago than the edge in seconds: out of these, some lived longer.",
            revision,
            "edge",
            zip(_EDGE_LABELS, counters.aged(now), strict=True),
        )
        yield _labelled(
            "luthier_safety_incidents", "Safety incidents.", revision, "severity", counters.incidents.items()
        )
        if counters.votes:
            yield _votes(counters)
            yield _labelled(
                "luthier_feedback_refused",
                "Votes that were not counted.",
                revision,
                "reason",
                counters.refused_votes.items(),
            )
        yield _gauge(
            "luthier_oldest_inflight_seconds", "Age of the oldest request in flight.", revision, counters.oldest(now)
        )
        # Which process counts: whoever reads this and the JSON can tell a restart from a late sample.
        text = "When this process began to count, Unix seconds."
        yield _gauge("luthier_counting_since_seconds", text, revision, self._started_at)
        yield _histogram(
            "luthier_time_to_first_token_seconds", "Time to the first part of a stream.", revision, counters.first_token
        )
        yield _histogram(
            "luthier_time_per_output_token_seconds",
            "Mean time per output token of a stream.",
            revision,
            counters.per_token,
        )


def snapshot(counters: Counters, *, now: float, started_at: float) -> dict[str, Any]:
    """Return the reply of `/luthier/counters`: what the fast lane needs, at most 4 KiB as JSON.

    `countingSince` (Unix seconds) identifies the process: with another one, all counts have begun again at 0.
    `ageExceeded` and `younger` follow the edges 0.01·1.2^(i/2) seconds, i from 0 to 120: how many requests lived
    longer than the edge, and how many began less long ago (these are few whatever the traffic: they fit into 4 KiB).
    `votes` is there where votes are taken.
    """
    return {
        "revision": counters.revision,
        "countingSince": started_at,
        "started": counters.started,
        "inFlight": counters.in_flight,
        "oldestInFlightSeconds": round(counters.oldest(now), 3),
        "outcomes": counters.outcomes,
        "checked": counters.checked,
        "invalidFormat": counters.invalid,
        "refusals": counters.refusals,
        "safetyIncidents": counters.incidents,
        "ageExceeded": counters.age_exceeded(now),
        "younger": [counters.started - aged for aged in counters.aged(now)],
        **({"votes": _newest_votes(counters)} if counters.votes else {}),
    }


def _newest_votes(counters: Counters) -> dict[str, list[int]]:
    """Return [up, down] by revision: of our own, and of those whose first vote came last."""
    others = [revision for revision in counters.votes if revision != counters.revision]
    shown = (counters.revision, *others[-SHOWN_REVISIONS:])
    return {revision: [counters.votes[revision][rating] for rating in RATINGS] for revision in shown}


def _plain_counters(counters: Counters) -> Iterator[tuple[str, str, int]]:
    yield "luthier_requests_started", "Requests received.", counters.started
    yield "luthier_responses_checked", "Answers compared with the response schema.", counters.checked
    yield "luthier_refusals", "Answers in which the model declined.", counters.refusals
    yield "luthier_responses_invalid_format", "Answers that do not meet the response schema.", counters.invalid


def _counter(name: str, text: str, revision: list[str], value: int) -> Metric:
    family = CounterMetricFamily(name, text, labels=["revision"])
    family.add_metric(revision, value)
    return family


def _votes(counters: Counters) -> CounterMetricFamily:
    text = "Votes on answers, by the revision that gave the answer, whichever pod took the vote."
    family = CounterMetricFamily("luthier_feedback", text, labels=["revision", "rating"])
    for revision, votes in counters.votes.items():
        for rating, value in votes.items():
            family.add_metric([revision, rating], value)
    return family


def _gauge(name: str, text: str, revision: list[str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["revision"])
    family.add_metric(revision, value)
    return family


def _labelled(
    name: str, text: str, revision: list[str], label: str, values: Iterable[tuple[str, int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["revision", label])
    for key, value in values:
        family.add_metric([*revision, key], value)
    return family


def _histogram(name: str, text: str, revision: list[str], histogram: Histogram) -> HistogramMetricFamily:
    bounds = [*(edge_label(edge) for edge in histogram.edges), "+Inf"]
    family = HistogramMetricFamily(name, text, labels=["revision"])
    buckets = list(zip(bounds, histogram.cumulative(), strict=True))
    family.add_metric(revision, buckets=buckets, sum_value=histogram.total)
    return family
