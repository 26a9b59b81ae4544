"""A rule's list of backends, and how one list becomes another without a failed request: pure.

A gateway keeps a cluster per backend that has weight. Envoy Gateway takes traffic to a backend before Envoy knows its
cluster, drops the cluster before Envoy stops the traffic, and names it by its place in the list: each costs requests
(docs/adr/0013). So a backend enters and leaves with one part in a million, and keeps its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from luthier.plan import Json

MILLION = 1_000_000
"""The largest weight that the Gateway API knows."""


def shares(backends: Iterable[Json]) -> dict[str, int]:
    """Return the percentage of each Service; an absent weight is 1, as the gateway takes it. A trace is 0 %."""
    weights = _weights(backends)
    total = sum(weights.values())
    return {name: round(100 * weight / total) if total else 0 for name, weight in weights.items()}


def next_backends(
    live: Sequence[Json], wanted: Sequence[Json], *, settled: bool, unknown: Collection[str] | None = ()
) -> list[Json]:
    """Return the list to write now, on the way from one to another. It is the last one when it no longer changes.

    Args:
        live: What the route says.
        wanted: What it should say. With weight 0 somebody keeps a trace, so that traffic can come back in one write.
        settled: The gateway sends traffic by `live`, and has done so for a while: who only has a trace may go.
        unknown: Those who entered so lately that they get no share yet. None: nobody knows; then everybody with a
            trace waits, unless somebody is to lose all traffic: that never waits.
    """
    serving = {name: weight for name, weight in _weights(live).items() if weight}
    named = _weights(wanted)
    goal = {name: weight for name, weight in named.items() if weight}
    refs = _by_name(live) | _by_name(wanted)
    if not serving or not goal:
        return _placed(live, refs, goal)
    traces = traces_in(live)
    if entering := named.keys() - serving.keys():
        heavy = {name: weight for name, weight in serving.items() if name not in traces}
        return _placed(live, refs, _spread(heavy, traces | entering))
    leaving = serving.keys() - named.keys()
    if unknown is None:
        is_urgent = any(name not in goal for name in serving.keys() - traces)
        unknown = () if is_urgent else traces
    low = (leaving - traces if settled else leaving) | (goal.keys() & traces & set(unknown))
    full = {name: weight for name, weight in goal.items() if name not in low}
    return _placed(live, refs, _spread(full, low | (named.keys() - goal.keys()))) if full else list(live)


def traces_in(backends: Sequence[Json]) -> frozenset[str]:
    """Return the Services that have so little weight that it is none."""
    weights = _weights(backends)
    total = sum(weights.values())
    return frozenset(name for name, weight in weights.items() if 0 < weight * MILLION <= 2 * total)


def _weights(backends: Iterable[Json]) -> dict[str, int]:
    weights: dict[str, int] = {}
    for backend in backends:
        if backend.get("kind", "Service") == "Service":
            weights[backend["name"]] = weights.get(backend["name"], 0) + int(backend.get("weight", 1))
    return weights


def _by_name(backends: Iterable[Json]) -> dict[str, Json]:
    return {b["name"]: b for b in backends if b.get("kind", "Service") == "Service"}


def _spread(full: Mapping[str, int], low: Collection[str]) -> dict[str, int]:
    """Return weights in the proportion of `full`, with a trace for each of the others."""
    if not low:
        return dict(full)
    left, parts = MILLION - len(low), sum(full.values())
    weights = {name: left * weight // parts for name, weight in full.items()}
    weights[next(iter(weights))] += left - sum(weights.values())
    return {**weights, **dict.fromkeys(sorted(low), 1)}


def _placed(live: Sequence[Json], refs: Mapping[str, Json], weights: Mapping[str, int]) -> list[Json]:
    """Return a list in which everybody who stays keeps their place; a place left empty has weight 0."""
    places: list[str | None] = []
    for backend in live:
        name = backend["name"] if backend.get("weight", 1) else None
        places.append(name if name in weights and name not in places else None)
    for name in weights:
        if name in places:
            continue
        if None in places:
            places[places.index(None)] = name
        else:
            places.append(name)
    while places and places[-1] is None:
        places.pop()
    # A place needs a Service that is there; nothing goes to it.
    anybody = next(iter(weights), "")
    return [{**refs[name or anybody], "weight": weights[name] if name else 0} for name in places]
