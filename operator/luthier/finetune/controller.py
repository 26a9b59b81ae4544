"""The FineTuneJob kind as the shell sees it: three hops to `observe`, `decide` and `build`."""

from __future__ import annotations

from luthier.finetune.decide import decide
from luthier.finetune.observe import Observed, observe
from luthier.plan import Json, Key, Plan
from luthier.ports import Ports
from luthier.resources import FINETUNEJOB


class FineTuneJobController:
    """Implements `luthier.ports.Controller`."""

    resource = FINETUNEJOB

    def references(self, obj: Json) -> tuple[Key, ...]:
        """A FineTuneJob waits on no other object of ours."""
        return ()

    async def observe(self, obj: Json, ports: Ports) -> Observed:
        """Read all that a decision needs."""
        return await observe(obj, ports)

    def decide(self, obj: Json, observed: Observed) -> Plan:
        """Decide, purely."""
        return decide(obj, observed)
