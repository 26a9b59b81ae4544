"""What the test remembers between two passes, and how it stands in status: pure.

It advances on a fixed grid of looks and is replayed from what status holds, so a pass after a restart of the operator
computes what the pass before it did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from luthier.deployment import gates
from luthier.deployment.counters import Edges, Pods, pods_from_json, pods_to_json
from luthier.deployment.gates import Evidence
from luthier.deployment.metrics import Gate
from luthier_server.counters import EDGES

VERSION = 3
"""Of the memory: 2 knew no processes and no incidents; another one is begun anew, from what Prometheus still has."""
MEMORY_LIMIT = 60_000
"""Bytes of the memory in status; above, the pods' counters are left out (the next pass finds them in Prometheus)."""
EDGE_SECONDS = 120.0
MIN_RATINGS = 50
"""Of each side: with fewer, satisfaction is shown and decides nothing."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the test remembers between two passes."""

    at: float
    """End of the last look, Unix seconds."""
    since: float | None = None
    """When the weight that is judged came into force; None: not yet, looks only teach how bursty the stable is."""
    restarts: int = 0
    restarted_at: float = 0.0
    candidate_started: int = 0
    """Since the weight last changed."""
    warm_at: float | None = None
    """When enough of them had started for the latency tests; None: not yet."""
    edge: int | None = None
    """The edge nearest the stable's p95: chosen before the strata that it judges."""
    edge_at: float = 0.0
    requests_exposed: int = 0
    """Candidate requests in the whole rollout: for people."""
    bad_served: int = 0
    """Of these, refused, failed or broken ones."""
    split: tuple[int, int] = (0, 0)
    """Requests of candidate and stable since the weight came into force, of all pods."""
    split_since: float | None = None
    """From when they are counted: what was read late of the time before is none of it."""
    ratings: tuple[int, int] = (0, 0)
    """Votes on answers of candidate and stable in the whole rollout, while the candidate had a weight in force."""
    pods: Pods = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def exposed(self, started: int, bad: int) -> Memory:
        """Return it after so many more candidate requests, of which so many were bad."""
        return replace(self, requests_exposed=self.requests_exposed + started, bad_served=self.bad_served + bad)

    def rated(self, candidate: int, stable: int) -> Memory:
        """Return it after so many more votes on both sides' answers."""
        return replace(self, ratings=(self.ratings[0] + candidate, self.ratings[1] + stable))

    @property
    def has_ratings(self) -> bool:
        """Whether both sides have so many votes that they decide."""
        return min(self.ratings) >= MIN_RATINGS

    def edges(self, gating: Sequence[Gate]) -> Edges:
        """Return the edges to read next."""
        slow = next((g.slower_edges for g in gating if g.name == "Latency"), None)
        over = next((g.over for g in gating if g.over is not None), None)
        if slow is None or self.edge is None:
            return Edges(over=over)
        return Edges(slow_candidate=min(self.edge + slow, len(EDGES) - 1), slow_stable=self.edge, over=over)

    def wants_edge(self, gating: Sequence[Gate], now: float) -> bool:
        """Say whether the stable's p95 has to be found (again)."""
        return any(g.name == "Latency" for g in gating) and (self.edge is None or now >= self.edge_at + EDGE_SECONDS)

    def dump(self) -> str:
        """Return it as compact JSON for status."""
        value = {
            "v": VERSION,
            "at": self.at,
            "since": self.since,
            "r": [self.restarts, self.restarted_at],
            "warm": [self.candidate_started, self.warm_at],
            "edge": [self.edge, self.edge_at],
            "exposed": [self.requests_exposed, self.bad_served],
            "split": [*self.split, self.split_since],
            **({"rated": list(self.ratings)} if any(self.ratings) else {}),
            "pods": pods_to_json(self.pods),
            "m": {name: e.to_json() for name, e in self.evidence.items()},
        }
        text = json.dumps(value, separators=(",", ":"))
        return text if len(text) <= MEMORY_LIMIT else json.dumps({**value, "pods": {}}, separators=(",", ":"))


def load(text: str | None) -> Memory | None:
    """Read what `Memory.dump` wrote; None when there is nothing that this version understands."""
    if not text:
        return None
    try:
        value = json.loads(text)
        if value["v"] == 2:
            value["pods"] = {pod: [*row[:2], None, *row[2:], None] for pod, row in value["pods"].items()}
        elif value["v"] != VERSION:
            return None
        restarts, restarted_at = value["r"]
        candidate_started, warm_at = value["warm"]
        requests_exposed, bad_served = value.get("exposed", (0, 0))  # an older operator did not count them
        ours, theirs, split_since = value.get("split", (0, 0, None))
        rated, stable_rated = value.get("rated", (0, 0))
        edge, edge_at = value["edge"]
        return Memory(
            at=value["at"],
            since=value["since"],
            restarts=restarts,
            restarted_at=restarted_at,
            candidate_started=candidate_started,
            warm_at=warm_at,
            edge=edge,
            edge_at=edge_at,
            requests_exposed=requests_exposed,
            bad_served=bad_served,
            split=(ours, theirs),
            split_since=split_since,
            ratings=(rated, stable_rated),
            pods=pods_from_json(value["pods"]),
            evidence={name: Evidence.from_json(e) for name, e in value["m"].items()},
        )
    except (KeyError, TypeError, ValueError):
        return None


def begin(now: float) -> Memory:
    """Return an empty memory whose first looks are the stable's last hour."""
    return Memory(at=math.floor(now - gates.BURST_WINDOW_SECONDS))
