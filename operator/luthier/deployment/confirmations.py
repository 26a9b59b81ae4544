"""Who has to agree before a weight grows, and who has: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luthier.api.hooks import Hook
from luthier.naming import short_hash
from luthier.plan import HookAnswer


@dataclass(frozen=True, kw_only=True)
class Confirmations:
    """Who has to agree to more weight, and who has."""

    scope: str = ""
    """Of which rollout."""
    hooks: tuple[Hook, ...] = ()
    answers: Mapping[str, HookAnswer] = field(default_factory=dict)

    def id_of(self, hook: Hook, step: int) -> str:
        """Return the id of the question whether a step may begin."""
        return short_hash(f"{self.scope}/{hook.name}/{hook.url}/{step}", 32)

    def missing(self, step: int) -> str | None:
        """Return who has not agreed to a step, and what was said; None: all have."""
        for hook in self.hooks:
            answer = self.answers.get(self.id_of(hook, step))
            if answer is None:
                return f"hook {hook.name} is being asked"
            if not answer.ok:
                return f"hook {hook.name} does not agree: {answer.message}"
        return None
