"""The table of faults: what may happen, and what must then hold.

A test says by `@pytest.mark.row(7)` which rows it shows. A row without any says what it waits for. `table` makes of
both what docs/reliability.md shows; `python -m faults.rows` writes it there.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: written by `python -m faults.rows` -->", "<!-- end of rows -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault. Numbers are stable; those that are missing were merged into others."""

    number: int
    fault: str
    safe: str
    waits: str = ""
    """What must be built before it can be shown; empty: tests show it."""


def row(number: int, fault: str, safe: str, waits: str = "") -> Row:
    return Row(number=number, fault=fault, safe=safe, waits=waits)


PARTS: dict[str, tuple[Row, ...]] = {
    "The operator's process": (
        row(1, "killed before or after any write of any life", "the next start ends where the undisturbed run ends"),
        row(2, "killed between a child's write and the status", "the status is rebuilt from what is there"),
        row(3, "told to end (SIGTERM) in mid-step", "ends within 30 s with 0; the next one goes on"),
        row(5, "two replicas; one killed, or standing still for 30 s", "exactly one writes, nothing is made twice"),
        row(6, "the Lease cannot be renewed for longer than it lasts", "the leader stops before it is over"),
        row(7, "the wall clock jumps by ten minutes, either way", "no pause shorter or longer, the same end"),
        row(8, "a start among many settled objects", "no write"),
        row(
            9,
            "memory capped at 128 MiB",
            "killed and started again, it goes on",
            "a chain on a node whose operator has so little",
        ),
        row(10, "one object makes a pass raise", "it backs off and is told; others go on"),
        row(11, "objects applied while no operator runs", "what is unsafe is refused by the API server itself"),
        row(
            12, "a watch is dead for good; the probe's port is taken", "the probe fails and names it; the process ends"
        ),
    ),
    "API server and watches": (
        row(13, "conflicts", "read again and decided again, nothing overwritten"),
        row(14, "throttled, with Retry-After", "not before the time that it said"),
        row(15, "errors in a row; no lists for minutes; gone for 5 minutes", "the process lives, the same end"),
        row(17, "a watch ends with 410, objects deleted in the gap", "the deletions are acted on"),
        row(18, "a watch ends with 429, 500 or 503; kopf ends", "watched again, the process lives"),
        row(19, "watches stay open and silent", "found within 70 s"),
        row(21, "events lost, doubled, out of order", "the same end"),
        row(22, "a right is taken away while it runs", "condition and event, tried slowly; other kinds go on"),
        row(24, "an object or its annotations are too large", "refused with the limit"),
        row(25, "etcd's disk is slow", "only slower", "a disk that can be slowed down without root"),
    ),
    "Children, nodes, training": (
        row(26, "a child is deleted by hand", "made again while it is wanted; what has ended never runs again"),
        row(27, "a child is edited by hand", "taken back, within a bounded number of writes"),
        row(29, "a node is lost in mid-training", "on from the last whole checkpoint; no error of the user's"),
        row(30, "a spot node is taken back, with notice", "checkpoint, next attempt; not counted as an error"),
        row(31, "out of memory", "reason and way out; no endless retry"),
        row(32, "an image that does not come", "pending with the kubelet's words; ends at the deadline"),
        row(33, "no node has room", "pending with the scheduler's words; no hot loop"),
        row(34, "one of several processes hangs", "restarted", "a watchdog in the trainer"),
        row(35, "the loss is no number", "ended with NumericalError, the last good checkpoint kept"),
        row(36, "killed while it writes a checkpoint; one is damaged", "the one before it, checksums verified"),
        row(37, "the volume is full or read-only", "a clear reason, no success"),
        row(39, "exit 0 without a model", "ArtifactMissing; never promoted"),
        row(40, "an object is deleted while it trains, serves or rolls out", "children and route go with it"),
        row(41, "a dependency's API is gone at deletion", "nothing holds a deletion up: we set no finalizer"),
        row(42, "a namespace goes, with objects at work in it", "it ends, nothing is made in it without end"),
        row(43, "the spec changes in mid-run", "refused where it must not, else another run begins cleanly"),
    ),
    "Metrics, rollout, rollback": (
        row(44, "Prometheus is down from the start or in mid-rollout", "held; never promoted"),
        row(45, "no series, or no traffic", "held"),
        row(46, "not a number, infinite, stale, from the future", "no data: held"),
        row(48, "only some of the pods are scraped", "held"),
        row(50, "too few requests", "held; false rollbacks at most as often as promised"),
        row(51, "counters start again with their pod", "no breach"),
        row(52, "labels that break out of a query; a query without end", "escaped; given up after its time"),
        row(53, "a breach at any weight, in a pause, before a stable that is not ready", "taken back; capacity first"),
        row(55, "killed during a rollback", "the candidate stays away, the rollback ends"),
        row(57, "a gateway refuses the route, or lags", "no next step until it is in force"),
        row(58, "a pod answers probes and generates nothing", "ready by a generated token only"),
        row(60, "a metric that goes to and fro", "one rollback per revision"),
        row(62, "shadowed requests call tools", "shadow requests are marked, tools are off", "shadow traffic"),
    ),
    "Versions": (
        row(64, "objects stored by an older version of the API", "read without loss, no rollout", "a second version"),
        row(65, "the next operator, and back", "both work on the same objects", "a release to come from"),
        row(67, "a conversion webhook is down", "reads go on", "a second version; there is no webhook"),
        row(68, "random objects made from our schemas", "refused by a field's name, or a clear condition"),
    ),
    "Inputs and security": (
        row(69, "broken, cut, empty, endless rows", "refused with file and line, in bounded memory, before any GPU"),
        row(
            70,
            "data larger than the volume or the memory",
            "streamed, the quota honoured",
            "a run with data of that size",
        ),
        row(71, "paths and links out of their claim, other schemes", "refused"),
        row(73, "references into other namespaces, to Secrets of others", "impossible by schema and by rights"),
        row(74, "pods under Pod Security `restricted`", "all of ours are admitted; nobody can ask for more"),
        row(75, "a model with code, pickles or unsound safetensors", "refused before it is loaded"),
        row(76, "a tag or a model that changes under its name", "a digest is recorded and verified"),
        row(78, "secrets and texts of the data in logs, events, status", "never"),
        row(79, "limits of size and number are exceeded", "refused; every list, text and number has a bound"),
    ),
}
ROWS = {one.number: one for rows in PARTS.values() for one in rows}


@dataclass(frozen=True, kw_only=True, order=True)
class Shown:
    """A test that shows a row."""

    make: str
    """The target of `make` that runs it."""
    file: str
    test: str


def shown_by() -> dict[int, list[Shown]]:
    """Return the marked tests by row, read from the sources: not all of them can be imported everywhere."""
    found: dict[int, list[Shown]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        everywhere = {name for node in tree.body if _assigns(node, "pytestmark") for name in _marks(node)}
        for test in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            decorators = [call for decorator in test.decorator_list for call in _calls(decorator)]
            numbers = {number for name, args in decorators if name == "row" for number in args}
            marks = everywhere | {name for d in test.decorator_list for name in _marks(d)}
            for number in sorted(numbers):
                file = str(path.relative_to(TESTS))
                found.setdefault(number, []).append(Shown(make=_make(file, marks), file=file, test=test.name))
    return found


def _assigns(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def _marks(node: ast.AST) -> Iterator[str]:
    """Yield what stands after `pytest.mark.`, wherever it does."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Attribute) and part.value.attr == "mark":
            yield part.attr


def _calls(node: ast.AST) -> Iterator[tuple[str, list[int]]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            name = next(_marks(part.func), "")
            yield name, [ast.literal_eval(argument) for argument in part.args if name == "row"]


def _make(file: str, marks: set[str]) -> str:
    folder = file.partition("/")[0]
    if folder in ("trainer", "server"):
        return "image-test"
    if folder == "e2e" or "node" in marks:
        return "node-test"
    if folder in ("unit", "golden"):
        return "simulation" if "slow" in marks else "unit"
    return "flood" if "flood" in marks else "api-test"


def table() -> str:
    """Return the table of rows as Markdown."""
    shown = shown_by()
    lines = []
    for part, rows in PARTS.items():
        lines += [f"### {part}", "", "| # | what is broken | what must hold | shown by |", "|---|---|---|---|"]
        lines += [f"| {one.number} | {one.fault} | {one.safe} | {_told(one, shown)} |" for one in rows]
        lines.append("")
    return "\n".join(lines)


def _told(one: Row, shown: dict[int, list[Shown]]) -> str:
    if one.waits:
        return f"waits for: {one.waits}"
    by_make: dict[str, list[str]] = {}
    for test in shown.get(one.number, ()):
        files = by_make.setdefault(test.make, [])
        name = f"`{test.file}`"
        if name not in files:
            files.append(name)
    return "; ".join(f"make {make}: {', '.join(files)}" for make, files in sorted(by_make.items())) or "NOTHING"


def document() -> str:
    """Return docs/reliability.md as it should be."""
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{DOCUMENT} has lost the place of the table: {BEGIN}"
    assert end, f"{DOCUMENT} has lost the end of the table: {END}"
    return f"{before}{BEGIN}\n\n{table()}{END}{after}"


def main() -> int:
    """Write the table into the document; with --check, write nothing and fail when it is stale."""
    wanted = document()
    if DOCUMENT.read_text() == wanted:
        return 0
    if "--check" in sys.argv:
        print(f"stale: {DOCUMENT}; run make generate", file=sys.stderr)
        return 1
    DOCUMENT.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
