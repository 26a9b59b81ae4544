"""Every series that the operator and the server export, by their own registries; and what PromQL asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from prometheus_client import Metric

from luthier.metrics import Metrics
from luthier_server.counters import Counters
from luthier_server.metrics import CountersCollector

SCRAPED = frozenset({"namespace", "pod", "pod_uid", "instance", "job"})
"""Labels that the scrape adds."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
WORDS = frozenset(
    {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}
)


def series() -> dict[str, frozenset[str]]:
    """Return the labels of each series by its name."""
    found: dict[str, frozenset[str]] = {}
    for collector in set(Metrics().registry._collector_to_names):
        for family in collector.collect():
            found |= _of(family, frozenset(getattr(collector, "_labelnames", ())))
    counters = Counters(revision="r1")
    counters.offer_votes()
    for family in CountersCollector(counters, clock=lambda: 0.0, started_at=0.0).collect():
        labels = {name for sample in family.samples for name in sample.labels}
        found |= _of(family, frozenset(labels))
    return found


def _of(family: Metric, labels: frozenset[str]) -> dict[str, frozenset[str]]:
    extra = {"le"} if family.type == "histogram" else set()
    return {family.name + suffix: labels | extra | SCRAPED for suffix in SUFFIXES[family.type]}


def asked(expression: str) -> set[str]:
    """Return the series that an expression names: identifiers that are no function, word, label or string."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    names = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b(?!\s*\()", text)
    return {name for name in names if name not in WORDS}


def matchers(expression: str) -> list[tuple[str, set[str]]]:
    """Return (series, labels asked for in its braces)."""
    found = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}", expression)
    return [(name, set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", inside))) for name, inside in found]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    program = shutil.which("promtool")
    assert program, "promtool is missing: apt-get install prometheus (hack/cluster up does it)"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
