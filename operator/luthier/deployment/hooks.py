"""What receivers are asked before a weight grows, and told afterwards: pure. `luthier.hooks` makes the calls.

A pass says which calls are wanted, and reads what earlier ones have answered: no pass waits for a receiver. What is to
be told stands in status, written together with what it tells of, until its receiver has said 2xx.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from luthier.api.conditions import Reason
from luthier.api.hooks import Hook, Notice
from luthier.api.modeldeployment import ModelDeploymentStatus
from luthier.deployment.case import Case
from luthier.deployment.confirmations import Confirmations
from luthier.deployment.rollout import weight_at
from luthier.naming import short_hash
from luthier.plan import Call, Event, Json
from luthier.status import format_time

MAX_NOTICES = 32
MAX_AGE = timedelta(hours=24)
"""Nobody took it for so long: it is dropped. History has it."""


def confirmations(case: Case) -> Confirmations:
    """Return who is asked; nobody, when an older revision comes back."""
    candidate, rollout = case.candidate, case.status.rollout
    if candidate is None or rollout is None or case.is_pinning:
        return Confirmations()
    hooks = tuple(hook for hook in case.spec.rollout.hooks or () if hook.type == "Confirm")
    scope = f"{case.obj['metadata']['uid']}/{candidate.name}/{format_time(rollout.started_at)}"
    return Confirmations(scope=scope, hooks=hooks, answers=case.seen.answers)


def questions(case: Case, status: ModelDeploymentStatus, reason: Reason) -> Iterator[Call]:
    """Return what is asked now: only a step that waits for nothing else asks."""
    rollout, candidate = status.rollout, status.candidate
    if reason != Reason.WAITING_FOR_CONFIRMATION or rollout is None or candidate is None:
        return
    asked = confirmations(case)
    step = rollout.step + 1
    wanted = weight_at(rollout.steps, step, rollout.watch, rollout.weight)
    about = {"revision": candidate.name, "step": step, "weight": rollout.weight, "nextWeight": wanted}
    for hook in asked.hooks:
        body = {**_about(case, hook, asked.id_of(hook, step)), "event": "Confirm", **about}
        yield Call(id=body["id"], url=hook.url, body=body)


def keep_notices(case: Case, events: Iterable[Event]) -> list[Notice]:
    """Return what is still to be told: the old without what has arrived, and what happens now."""
    hooks = {hook.name: hook for hook in case.spec.rollout.hooks or () if hook.type != "Confirm"}
    kept = [n for n in case.status.notices if n.hook in hooks and not _is_over(case, n)]
    return [*kept, *_new(case, hooks.values(), events)][-MAX_NOTICES:]


def _is_over(case: Case, notice: Notice) -> bool:
    answer = case.seen.answers.get(notice.id)
    return (answer is not None and answer.ok) or case.now - notice.at > MAX_AGE


def _new(case: Case, hooks: Iterable[Hook], events: Iterable[Event]) -> Iterator[Notice]:
    uid, at = case.obj["metadata"]["uid"], case.now
    for event in events:
        for hook in hooks:
            if hook.type == "Rollback" and event.reason != Reason.ROLLED_BACK:
                continue
            made = f"{uid}/{hook.name}/{event.reason}/{event.message}/{format_time(at)}"
            message = event.message[:1024]
            yield Notice(id=short_hash(made, 32), hook=hook.name, event=event.reason, message=message, at=at)


def deliveries(case: Case, status: ModelDeploymentStatus) -> Iterator[Call]:
    """Return the calls that tell what is in status."""
    hooks = {hook.name: hook for hook in case.spec.rollout.hooks or ()}
    for notice in status.notices:
        hook = hooks[notice.hook]
        about = {"event": notice.event, "message": notice.message, "at": format_time(notice.at)}
        yield Call(id=notice.id, url=hook.url, body={**_about(case, hook, notice.id), **about})


def _about(case: Case, hook: Hook, id_: str) -> Json:
    meta = case.obj["metadata"]
    return {
        "id": id_,
        "hook": hook.name,
        "type": hook.type,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }


def calls_of(case: Case, status: ModelDeploymentStatus, reason: Reason) -> tuple[Call, ...]:
    """Return all calls that are wanted now, to allowed hosts only."""
    allowed = set(case.seen.settings.hook_hosts)
    wanted = (*questions(case, status, reason), *deliveries(case, status))
    return tuple(call for call in wanted if urlsplit(call.url).netloc in allowed)


def find_refused_url(case: Case) -> str | None:
    """Return which hook may not be called, and the way out; None: all may."""
    allowed = set(case.seen.settings.hook_hosts)
    for i, hook in enumerate(case.spec.rollout.hooks or ()):
        host = urlsplit(hook.url).netloc
        if host not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            where = f'spec.rollout.hooks[{i}].url is "{hook.url}"'
            return f"{where}: host {host} is not among the chart's hooks.allowedHosts ({known})"
    return None
