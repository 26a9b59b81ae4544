"""The scorecard of `make faults`: crash points, rows of the table of faults, and the numbers that tests measured.

The tests run as pytest runs them; what they found is read from its report (JUnit's XML), properties included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from faults.crash import Score
from faults.rows import ROWS, TESTS, Shown

HERE = ("cluster", "helm", "unit", "golden")
"""Folders of tests that need neither a node nor an image."""
ELSEWHERE = ("node-test", "image-test")
BAR_POINTS, BAR_FAILOVER_SECONDS = 300, 15.0
NOT_MEASURED = {
    "1,000 rollouts of each kind": "hours; the simulations above are as many as they say",
    "GPU-seconds lost per preemption": "needs GPUs",
    "failed requests during 1,000 weight changes": "needs a gateway: make node-test counts those of a chain",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test as it ran."""

    name: str
    rows: tuple[int, ...]
    wrong: str
    """Why it is not green; empty: it passed."""
    measured: Mapping[str, str]


def run_rows(folder: Path) -> list[Case]:
    """Run all marked tests that need neither a node nor an image; return how they went.

    Raises:
        RuntimeError: pytest did not come to its end.
    """
    report = folder / "rows.xml"
    paths = [str(TESTS / name) for name in HERE]
    command = [sys.executable, "-m", "pytest", "-q", *paths, "-m", "row and not node", f"--junitxml={report}"]
    # As in the Makefile: what a killed kopf leaves is nobody's fault. Properties need the older form of the report.
    command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning", "-o", "junit_family=xunit1"]
    print(f"the rows of the table of faults: {' '.join(command[1:])}", flush=True)
    done = subprocess.run(command, cwd=TESTS.parent, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False)
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode} and left no report")
    return read_report(report.read_text())


def read_report(text: str) -> list[Case]:
    """Read what pytest reported."""
    return [_case(found) for found in ElementTree.fromstring(text).iter("testcase")]


def _case(found: ElementTree.Element) -> Case:
    properties = [(p.get("name", ""), p.get("value", "")) for p in found.iter("property")]
    bad = next((child for child in found if child.tag in ("failure", "error", "skipped")), None)
    wrong = "" if bad is None else f"{bad.tag}: {(bad.get('message') or 'no message').splitlines()[0][:200]}"
    return Case(
        name=f"{found.get('classname', '').replace('.', '/')}: {found.get('name')}",
        rows=tuple(int(value) for name, value in properties if name == "row"),
        wrong=wrong,
        measured={name: value for name, value in properties if name != "row"},
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of all rows after a run."""

    green: tuple[int, ...]
    red: Mapping[int, tuple[str, ...]]
    """With the tests that say so."""
    waiting: Mapping[int, str]
    elsewhere: Mapping[int, tuple[str, ...]]
    """Not shown in this run: by which targets of `make`."""


def judge_rows(cases: Iterable[Case], shown: Mapping[int, list[Shown]]) -> Verdict:
    """Say of each row what the tests say; a test that was skipped, or is expected to fail, has shown nothing."""
    ran: dict[int, list[Case]] = {}
    for case in cases:
        for number in case.rows:
            ran.setdefault(number, []).append(case)
    waiting = {number: one.waits for number, one in ROWS.items() if one.waits}
    elsewhere, red = {}, {}
    for number in ROWS.keys() - waiting.keys():
        makes = {test.make for test in shown.get(number, ())}
        if wrong := tuple(f"{case.name} ({case.wrong})" for case in ran.get(number, ()) if case.wrong):
            red[number] = wrong
        elif number not in ran and makes and makes <= set(ELSEWHERE):
            elsewhere[number] = tuple(sorted(makes))
        elif number not in ran:
            red[number] = ("no test has run",)
    green = tuple(n for n in ROWS if n not in waiting and n not in elsewhere and n not in red)
    return Verdict(green=green, red=red, waiting=waiting, elsewhere=elsewhere)


def missed(score: Score, verdict: Verdict | None, cases: list[Case]) -> list[str]:
    """Return the bars that are missed: `make faults` fails then."""
    found = [f"{len(score.wrong)} wrong ends"] if score.wrong else []
    found += [f"row {number} is red" for number in sorted(verdict.red)] if verdict is not None else []
    # A file that could not be read: its tests are missing from all their rows.
    found += [f"{case.name} ({case.wrong})" for case in cases if case.wrong and not case.rows]
    writes = _measured(cases, "settled_writes")
    return found + [f"{count} writes on a restart with everything settled" for count in writes if count != "0"]


def render(score: Score, verdict: Verdict | None, cases: list[Case]) -> str:
    """Return the scorecard as text; without a verdict, of crash points alone."""
    if verdict is None:
        return "\n".join(["", "Scorecard", *_crash_lines(score)])
    lines = ["", "Scorecard", *_crash_lines(score), *_row_lines(verdict), *_number_lines(cases)]
    lines += ["not measured here:", *(f"  {what}: {need}" for what, need in NOT_MEASURED.items())]
    return "\n".join(lines)


def _crash_lines(score: Score) -> list[str]:
    lines = [f"  {life:32} {count:4} crash points" for life, count in score.by_life.items()]
    lines.append(
        f"crash points that end wrong: {len(score.wrong)} of {score.points} (bar: 0 of {BAR_POINTS} or more), "
        f"{score.seconds:.0f} s"
    )
    if score.points < BAR_POINTS:
        lines.append(f"  fewer than {BAR_POINTS}: a sample says less")
    if score.unreached:
        lines.append(f"  {score.unreached} points were not reached: the run made fewer writes")
    return lines


def _row_lines(verdict: Verdict) -> list[str]:
    lines = [
        f"rows of the table of faults: {len(verdict.green)} green, {len(verdict.red)} red, "
        f"{len(verdict.elsewhere)} shown elsewhere, {len(verdict.waiting)} waiting, of {len(ROWS)}"
    ]
    for number, why in sorted(verdict.red.items()):
        lines += [f"  RED {number} {ROWS[number].fault}", *(f"      {one}" for one in why)]
    for number, makes in sorted(verdict.elsewhere.items()):
        shown = " and ".join(f"make {make}" for make in makes)
        lines.append(f"  not run here: {number} {ROWS[number].fault} ({shown})")
    lines += [f"  waiting: {n} {ROWS[n].fault} (for: {why})" for n, why in sorted(verdict.waiting.items())]
    return lines


def _number_lines(cases: list[Case]) -> list[str]:
    border = "simulated false rollbacks of candidates on the border, where the bound is 5 %"
    healthy = "simulated false rollbacks of healthy candidates, as shipped (bar: 1 %)"
    return [
        _failover_line(cases),
        *_settled_lines(cases),
        _counted(cases, "false_rollbacks", healthy),
        _counted(cases, "false_rollbacks_at_5_percent", border),
        _counted(cases, "breaches_missed", "simulated bad revisions that kept their traffic (bar: 0)"),
    ]


def _failover_line(cases: list[Case]) -> str:
    seconds = [float(value) for value in _measured(cases, "failover_seconds")]
    if not seconds:
        return "failover without a leader: not measured"
    worst = max(seconds)
    over = "; missed" if worst > BAR_FAILOVER_SECONDS else ""
    return (
        f"failover without a leader: {worst:.1f} s at worst of {len(seconds)} (bar: {BAR_FAILOVER_SECONDS:.0f} s{over})"
    )


def _settled_lines(cases: list[Case]) -> list[str]:
    both = [
        (case.measured["settled_writes"], case.measured["settled_objects"])
        for case in cases
        if "settled_writes" in case.measured
    ]
    found = [f"writes on a restart with everything settled: {w} among {n} objects (bar: 0)" for w, n in both]
    return found or ["writes on a restart with everything settled: not measured"]


def _counted(cases: list[Case], name: str, what: str) -> str:
    """Add up what several tests counted as `found/runs`."""
    pairs = [value.split("/") for value in _measured(cases, name)]
    if not pairs:
        return f"{what}: not measured"
    return f"{what}: {sum(int(found) for found, _ in pairs)} of {sum(int(runs) for _, runs in pairs)}"


def _measured(cases: Iterable[Case], name: str) -> list[str]:
    return [case.measured[name] for case in cases if name in case.measured]
