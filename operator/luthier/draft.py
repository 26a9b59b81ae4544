"""A status while it is being decided: pure. Each method returns a new draft; the last one makes the plan.

For kinds that end (FineTuneJob, Evaluation): work goes on, it succeeded, or it failed for good. Each of the three
writes the summary, so a draft is always whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from luthier.api.base import ErrorStatus, KubeModel
from luthier.api.conditions import ConditionType
from luthier.api.evaluation import EvaluationStatus
from luthier.api.finetunejob import FineTuneJobStatus
from luthier.errors import InvalidSpec
from luthier.plan import Event, Json, Manifest, Plan, Ref
from luthier.status import (
    Conditions,
    find_condition,
    mark_reconciling,
    mark_settled,
    mark_stalled,
    set_condition,
    summarize,
)

ModelT = TypeVar("ModelT", bound=KubeModel)
StatusT = TypeVar("StatusT", FineTuneJobStatus, EvaluationStatus)
_MAX_MESSAGE, _MAX_FIELD = 2048, 256
"""Bounds of `ErrorStatus`."""


def read_spec(model: type[ModelT], obj: Json) -> ModelT:
    """Return the spec. One that the API server let pass before a rule was made is the user's to mend, not an error."""
    try:
        return model.model_validate(obj["spec"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(("spec", *(str(part) for part in first["loc"])))
        raise InvalidSpec(field, f"{first['msg']}, and it is {first['input']!r}") from error


@dataclass(frozen=True, kw_only=True)
class Draft(Generic[StatusT]):
    """A status, its conditions apart (in JSON, as `luthier.status` works on them), and the events to send."""

    obj: Json
    now: datetime
    status: StatusT
    conditions: Conditions
    events: tuple[Event, ...] = ()

    @property
    def generation(self) -> int:
        return int(self.obj["metadata"]["generation"])

    def put(self, **fields: Any) -> Draft[StatusT]:
        """Set fields of the status, by their Python names."""
        return replace(self, status=self.status.model_copy(update=fields))

    def say(
        self,
        type: ConditionType,  # noqa: A002 - the field's name in Kubernetes
        status: Literal["True", "False", "Unknown"],
        reason: str,
        message: str,
    ) -> Draft[StatusT]:
        """Set one condition."""
        return replace(
            self,
            conditions=set_condition(
                self.conditions,
                type=str(type),
                status=status,
                reason=str(reason),
                message=message,
                generation=self.generation,
                now=self.now,
            ),
        )

    def event(self, type: Literal["Normal", "Warning"], reason: str, message: str) -> Draft[StatusT]:  # noqa: A002
        """Add an event."""
        return replace(self, events=(*self.events, Event(type=type, reason=str(reason), message=message)))

    def working(self, reason: str, message: str) -> Draft[StatusT]:
        """Say that work goes on, or that something is awaited."""
        marked = mark_reconciling(
            self.conditions, reason=str(reason), message=message, generation=self.generation, now=self.now
        )
        return self.put(error=None)._summarized(marked, reason, message)

    def succeeded(self, reason: str, message: str) -> Draft[StatusT]:
        """Say that it ended well."""
        return (
            self._ended("Normal", reason, message)
            .put(error=None)
            ._summarized(mark_settled(self.conditions), reason, message)
        )

    def failed(self, reason: str, message: str, *, field: str | None = None) -> Draft[StatusT]:
        """Say that it ended for good, and what could be changed."""
        error = ErrorStatus(
            code=str(reason), message=message[:_MAX_MESSAGE], field=field[:_MAX_FIELD] if field else None
        )
        marked = mark_stalled(
            self.conditions, reason=str(reason), message=message, generation=self.generation, now=self.now
        )
        return self._ended("Warning", reason, message).put(error=error)._summarized(marked, reason, message)

    def _ended(self, type: Literal["Normal", "Warning"], reason: str, message: str) -> Draft[StatusT]:  # noqa: A002
        return self.put(completion_time=self.now.replace(microsecond=0)).event(type, reason, message)

    def again(self) -> Draft[StatusT]:
        """Say the same for the newest generation."""
        return replace(self, conditions=[{**c, "observedGeneration": self.generation} for c in self.conditions])

    def _summarized(self, conditions: Conditions, reason: str, message: str) -> Draft[StatusT]:
        return replace(
            self,
            conditions=summarize(
                conditions,
                kind=self.obj["kind"],
                reason=str(reason),
                message=message,
                generation=self.generation,
                now=self.now,
            ),
        )

    def reason_of(self, type: ConditionType) -> str | None:  # noqa: A002
        """Return a condition's reason, or None when there is no such condition."""
        found = find_condition(self.conditions, str(type))
        return found["reason"] if found else None

    def plan(
        self,
        *,
        apply: tuple[Manifest, ...] = (),
        delete: tuple[Ref, ...] = (),
        status_first: bool = False,
        requeue_after: float | None = None,
    ) -> Plan:
        """Return the plan that writes this status."""
        return Plan(
            status={
                **self.status.to_json(),
                "conditions": self.conditions,
                "observedGeneration": self.generation,
            },
            apply=apply,
            delete=delete,
            events=self.events,
            status_first=status_first,
            requeue_after=requeue_after,
        )
