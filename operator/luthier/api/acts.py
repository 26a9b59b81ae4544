"""What people may order in mid-rollout, and when a rollout may move.

Each act names the revision that it is about and has no effect on another.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from luthier.api.base import KubeModel, Timestamp, cel, matches

By = Annotated[
    str | None, Field(default=None, min_length=1, max_length=128, description="Who orders it; goes into the history.")
]
Why = Annotated[
    str | None, Field(default=None, min_length=1, max_length=256, description="Why; goes into the history.")
]


class Approve(KubeModel):
    """Permission for one step of one revision."""

    revision: Annotated[str, Field(max_length=63, description="As in status.candidate.name.")]
    step: Annotated[int, Field(ge=1, le=64, description="The pause step's number, counted from 1.")]


class RevisionAct(KubeModel):
    """An act that names the revision it is about."""

    revision: Annotated[str, Field(max_length=63, description="As in status: it has no effect on another one.")]
    by: By
    reason: Why


class Promote(KubeModel):
    """Send a candidate on to 100 percent, weight by weight."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "!self.skipAnalysis || (has(self.by) && has(self.reason))",
                "skipAnalysis overrides the analysis: it needs by and reason",
            )
        ),
    )

    revision: Annotated[str, Field(max_length=63, description="As in status.candidate.name.")]
    skip_analysis: Annotated[
        bool,
        Field(
            default=False,
            description=(
                "False: approve every pause. True: also pass every analysis, even a failed one or one without metrics. "
                "Never past missing pods or an unconfirmed weight."
            ),
        ),
    ]
    by: By
    reason: Why


class ActStatus(KubeModel):
    """An act that the rollout in progress follows, or has followed."""

    act: Annotated[Literal["Promote", "Pin"], Field(description="Which.")]
    skip_analysis: Annotated[bool, Field(default=False, description="Whether it overrides the analysis.")]
    by: By
    reason: Why
    since: Annotated[Timestamp, Field(description="When it was first seen.")]


class Window(KubeModel):
    """A time in which a rollout may start and get more traffic. Rollback does not wait for it."""

    schedule: Annotated[
        str,
        Field(
            max_length=100,
            description='When it opens, as in cron: minute, hour, day, month, weekday: "0 9 * * MON-FRI".',
            **matches(
                r"^[0-9A-Za-z*,/#-]+( +[0-9A-Za-z*,/#-]+){4}$",
                'must have the five fields of cron: minute, hour, day, month, weekday, for example "0 9 * * MON-FRI"',
            ),
        ),
    ]
    duration_seconds: Annotated[int, Field(ge=60, le=2_678_400, description="How long it stays open.")]
    time_zone: Annotated[
        str,
        Field(
            default="Etc/UTC",
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
            description='Whose clock, by its IANA name: "Europe/Berlin".',
        ),
    ]
