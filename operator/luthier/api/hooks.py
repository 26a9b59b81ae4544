"""Whom a rollout asks, and whom it tells: signed HTTP calls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.api.base import ItemName, KubeModel, Timestamp, matches


class Hook(KubeModel):
    """One receiver. Its host must be in the platform's list (docs/rollouts.md)."""

    name: Annotated[ItemName, Field(description="In conditions and in the call.")]
    type: Annotated[
        Literal["Confirm", "Event", "Rollback"],
        Field(
            description=(
                "Confirm: asked before each higher weight; anything but 2xx within 5 s holds it. Event: told of every "
                "event of the rollout. Rollback: told when a candidate is taken back. Told at least once, by id."
            )
        ),
    ]
    url: Annotated[
        str,
        Field(
            max_length=512,
            description="Where to POST.",
            **matches(
                r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~/?&=%-]*)?$",
                "must be https://<host in lower case>/<path>, without user and password",
            ),
        ),
    ]


class Notice(KubeModel):
    """A call that has not been confirmed by its receiver yet."""

    id: Annotated[str, Field(max_length=32, description="The same at each try.")]
    hook: Annotated[str, Field(max_length=40, description="The receiver.")]
    event: Annotated[str, Field(max_length=128, description="The event's reason.")]
    message: Annotated[str, Field(max_length=1024, description="The event's message.")]
    at: Annotated[Timestamp, Field(description="When it happened.")]
