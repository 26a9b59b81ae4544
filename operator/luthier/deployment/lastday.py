"""Asks Prometheus how many requests a deployment had in the last day: how much a rollout that starts now can learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.deployment.counters import STARTED
from luthier.ports import Prometheus, Sample
from luthier.prometheus import PrometheusError, select_pods


@dataclass(frozen=True, kw_only=True)
class LastDay:
    """The deployment's requests of the last 24 hours, all revisions together."""

    requests: float | None = None
    problem: str | None = None
    """Why that is not known."""


async def read_last_day(prometheus: Prometheus, *, namespace: str, prefixes: Sequence[str]) -> LastDay:
    """Ask for all requests of pods whose names begin with one of these; half a day extrapolated would be no day."""
    pods = select_pods(namespace, prefixes)
    try:
        if not await prometheus.raw(f"count(count_over_time({STARTED}{{{pods}}}[1h] offset 23h))"):
            return LastDay(problem="Prometheus has no 24 h of its requests")
        # A pod that two scrapers report is one pod.
        found = await prometheus.raw(f"sum(max by (pod) (increase({STARTED}{{{pods}}}[24h])))")
    except PrometheusError as error:
        return LastDay(problem=str(error))
    value = found[0].value if len(found) == 1 else math.nan
    if not 0 <= value < math.inf:
        return LastDay(problem=f"Prometheus says {_shown(found)} for its requests of 24 h")
    return LastDay(requests=value)


def _shown(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{sample.value:g}" for sample in samples[:3]) or "nothing"
