"""The platform team's switch for all rollouts: a ConfigMap in the operator's namespace that exists while they rest.

Read every few seconds by whoever may act, apart from any pass: a pass reads what was last seen and waits for nothing.
What cannot be read keeps its last state; before the first answer, nothing advances.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from luthier.errors import LuthierError
from luthier.kube import Kube
from luthier.plan import Json
from luthier.resources import CONFIGMAP

log = logging.getLogger(__name__)

SECONDS = 5.0
UNREAD = "the switch for all rollouts could not be read yet"
MAX_REASON = 512


class FreezeSwitch:
    """What the switch says."""

    def __init__(self, kube: Kube, *, namespace: str, name: str, always: str, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._always = always
        self._changed = changed
        self._reason: str | None = UNREAD

    def reason(self) -> str | None:
        """Return why rollouts rest, or None when they may go."""
        return self._always or self._reason

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(SECONDS)

    async def look(self) -> None:
        """Look once; tell of a change."""
        try:
            found = await self._kube.get(CONFIGMAP, self._namespace, self._name)
        except LuthierError as error:
            log.warning("the freeze switch cannot be read, it stays as it was: %s", error)
            return
        reason = None if found is None else self._why(found)
        if reason != self._reason:
            log.warning("rollouts rest: %s", reason) if reason else log.info("rollouts may go")
            self._reason = reason
            self._changed()

    def _why(self, found: Json) -> str:
        said = str((found.get("data") or {}).get("reason", "")).strip()[:MAX_REASON]
        return f"ConfigMap {self._namespace}/{self._name} exists{f': {said}' if said else ''}"
