"""What people have ordered, by `spec.rollout` or, once, by `kubectl annotate`: pure.

    luthier.dev/approve: r8-5f3a9c1b/4
    luthier.dev/abort:   r8-5f3a9c1b
    luthier.dev/retry:   r8-5f3a9c1b
    luthier.dev/promote: r8-5f3a9c1b                                  (approves every pause)
    luthier.dev/promote: r8-5f3a9c1b/skipAnalysis alice: the stable is broken

Both sources count, each for the revision that it names: what was left behind for another one does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from luthier.api.acts import Promote, RevisionAct
from luthier.api.base import GROUP
from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.plan import Json

_REVISION = r"(?P<revision>r[0-9]+-[0-9a-f]{8})"
_WHO = r"(?:\s+(?P<by>[^\s:]{1,128}):\s*(?P<reason>\S.{0,255}))?"
_FORMS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "approve": (re.compile(rf"{_REVISION}/(?P<step>[1-9][0-9]?)"), "REVISION/STEP"),
    "abort": (re.compile(rf"{_REVISION}{_WHO}"), "REVISION"),
    "retry": (re.compile(rf"{_REVISION}{_WHO}"), "REVISION"),
    "promote": (
        re.compile(rf"{_REVISION}(?:(?P<skip>/skipAnalysis)(?=\s+[^\s:]+:\s*\S))?{_WHO}", re.DOTALL),
        "REVISION, or REVISION/skipAnalysis WHO: WHY",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One act on one revision."""

    source: str
    """Where it stands, for people."""
    by: str | None = None
    reason: str | None = None
    skip_analysis: bool = False

    @property
    def signed(self) -> str:
        """Return ` (alice: why)`, or nothing."""
        said = ": ".join(part for part in (self.by, self.reason) if part)
        return f" ({said})" if said else ""


@dataclass(frozen=True, kw_only=True)
class Acts:
    """All orders, by the revision that each names."""

    approvals: frozenset[tuple[str, int]] = frozenset()
    aborts: Mapping[str, Order] = field(default_factory=dict)
    retries: Mapping[str, Order] = field(default_factory=dict)
    promotes: Mapping[str, Order] = field(default_factory=dict)
    pinned: str | None = None
    """The revision that `rollout.pin` names."""
    pin: Order = field(default_factory=lambda: Order(source="spec.rollout.pin"))
    complaint: str | None = None
    """Which annotation cannot be read, and how it should be; None: all can."""

    def approved(self, revision: str) -> frozenset[int]:
        """Return the steps of a revision that may be passed."""
        return frozenset(step for name, step in self.approvals if name == revision)


def read_acts(obj: Json, spec: ModelDeploymentSpec) -> Acts:
    """Return what is ordered."""
    rollout, annotations = spec.rollout, obj["metadata"].get("annotations") or {}
    found = {act: _FORMS[act][0].fullmatch(text.strip()) for act, text in _texts(annotations)}
    unread = [act for act, match in found.items() if match is None]
    read = {act: match.groupdict() for act, match in found.items() if match is not None}
    pin = rollout.pin
    approvals = {(rollout.approve.revision, rollout.approve.step)} if rollout.approve else set()
    if "approve" in read:
        approvals.add((read["approve"]["revision"], int(read["approve"]["step"])))
    return Acts(
        approvals=frozenset(approvals),
        aborts=_orders("abort", rollout.abort, read),
        retries=_orders("retry", rollout.retry, read),
        promotes=_orders("promote", rollout.promote, read),
        pinned=pin.revision if pin else None,
        pin=Order(source="spec.rollout.pin", by=pin.by if pin else None, reason=pin.reason if pin else None),
        complaint=_complain(unread[0], annotations) if unread else None,
    )


def _texts(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for act in _FORMS:
        if f"{GROUP}/{act}" in annotations:
            yield act, annotations[f"{GROUP}/{act}"]


def _orders(act: str, said: Promote | RevisionAct | None, read: Mapping[str, Mapping[str, str]]) -> dict[str, Order]:
    orders = {}
    if act in read:
        groups = read[act]
        orders[groups["revision"]] = Order(
            source=f"annotation {GROUP}/{act}",
            by=groups["by"],
            reason=groups["reason"],
            skip_analysis=bool(groups.get("skip")),
        )
    if said is not None:
        skip = isinstance(said, Promote) and said.skip_analysis
        # Of two on the same revision, the one that goes further counts.
        if said.revision not in orders or skip or not orders[said.revision].skip_analysis:
            orders[said.revision] = Order(
                source=f"spec.rollout.{act}", by=said.by, reason=said.reason, skip_analysis=skip
            )
    return orders


def _complain(act: str, annotations: Mapping[str, str]) -> str:
    value, form = annotations[f"{GROUP}/{act}"], _FORMS[act][1]
    return f"annotation {GROUP}/{act} is {value[:80]!r} and has no effect: write {form}"
