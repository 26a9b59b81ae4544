"""What the gates make of the numbers: pure. Whole interval inside: Passed; whole outside: Failed; else Inconclusive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from luthier_eval import stats
from luthier_eval.config import EvalConfig, GateConfig
from luthier_eval.judge import MetricFound, SuiteFound
from luthier_eval.stats import Estimate
from luthier_trainer.errors import UserError

Outcome = Literal["Passed", "Failed", "Inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of one gate."""

    suite: str
    metric: str
    outcome: Outcome
    message: str


def check_config(config: EvalConfig) -> None:
    """Refuse a configuration whose names do not fit each other, before anything is asked.

    Raises:
        UserError: The message names the field.
    """
    names = [side.name for side in (config.target, *config.baselines)]
    if len(set(names)) < len(names):
        raise UserError("InvalidSpec", f"two sides have one name: {', '.join(sorted(names))}", field="baselines")
    metrics = {(suite.name, metric.name) for suite in config.suites for metric in suite.metrics}
    for index, gate in enumerate(config.gates):
        where = f"gates[{index}]"
        if (gate.suite, gate.metric) not in metrics:
            known = ", ".join(f"{suite}/{metric}" for suite, metric in sorted(metrics))
            message = f"{where}: no suite computes {gate.suite}/{gate.metric}; there are {known}"
            raise UserError("InvalidSpec", message, field="gates")
        if gate.versus_baseline is not None and gate.versus_baseline not in names[1:]:
            message = (
                f"{where}: no baseline is called {gate.versus_baseline}; there are {', '.join(names[1:]) or 'none'}"
            )
            raise UserError("InvalidSpec", message, field="gates")
        if gate.min_percent is None and gate.versus_baseline is None:
            raise UserError("InvalidSpec", f"{where} bounds nothing: set minPercent or versus", field="gates")


def decide_gate(gate: GateConfig, suites: Mapping[str, SuiteFound], *, level: float) -> Decision:
    """Decide one gate: its bound on the value, its bound on the difference, or both."""
    suite = suites[gate.suite]
    metric = suite.metric(gate.metric)
    parts = []
    if gate.min_percent is not None:
        parts.append(_absolute(gate.min_percent, metric, level))
    if gate.versus_baseline is not None:
        parts.append(_relative(gate, gate.versus_baseline, metric, level, suite))
    return Decision(
        suite=gate.suite,
        metric=gate.metric,
        outcome=combine(outcome for outcome, _ in parts),
        message="; ".join(message for _, message in parts),
    )


def combine(outcomes: Iterable[Outcome]) -> Outcome:
    """Return Failed if one failed, else Inconclusive if one is, else Passed."""
    found = set(outcomes)
    for worst in ("Failed", "Inconclusive"):
        if worst in found:
            return worst
    return "Passed"


def outcome_of(found: Estimate, bound: float) -> Outcome:
    """Return what an interval says of a lower bound."""
    if found.low >= bound:
        return "Passed"
    return "Failed" if found.high < bound else "Inconclusive"


def _absolute(min_percent: int, metric: MetricFound, level: float) -> tuple[Outcome, str]:
    bound = min_percent / 100
    outcome = outcome_of(metric.target, bound)
    fewest = stats.smallest_passing_n(bound, level=level)
    message = f"{show(metric.target)} of {metric.n}, needs {min_percent} %"
    return outcome, message + _advice(outcome, metric, metric.target, bound, fewest)


def _relative(
    gate: GateConfig, baseline: str, metric: MetricFound, level: float, suite: SuiteFound
) -> tuple[Outcome, str]:
    bound = gate.min_difference_percent / 100
    difference = metric.baseline(baseline).difference
    outcome = outcome_of(difference, bound)
    fewest = stats.smallest_passing_pairs(bound, level=level) if metric.type != "F1" else None
    message = f"{show(difference, points=True)} to {baseline}, needs {gate.min_difference_percent:+d}"
    refused = next(side.refused for side in suite.sides if side.name == baseline)
    note = f" ({baseline} could not be asked {refused} of {suite.cases} cases: counted as wrong)" if refused else ""
    return outcome, message + _advice(outcome, metric, difference, bound, fewest) + note


def _advice(outcome: Outcome, metric: MetricFound, found: Estimate, bound: float, fewest: int | None) -> str:
    least = f" (no fewer than {fewest} cases can pass)" if fewest is not None and fewest > 1 else ""
    if outcome != "Inconclusive":
        return least
    about = stats.deciding_n(found, bound, metric.n)
    return least + (f", undecided: about {max(about, fewest or 0)} cases would decide" if about else ", undecided")


def show(found: Estimate, *, points: bool = False) -> str:
    """Return an estimate as people read it: in percent, or a difference in points."""
    if points:
        return f"{100 * found.value:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
