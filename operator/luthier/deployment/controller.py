"""The ModelDeployment kind as the shell sees it: three hops to `observe`, `decide` and `build`."""

from __future__ import annotations

from luthier.deployment.decide import decide
from luthier.deployment.observe import Observed, observe, reference_keys
from luthier.plan import Json, Key, Plan
from luthier.ports import Ports
from luthier.resources import MODELDEPLOYMENT


class ModelDeploymentController:
    """Implements `luthier.ports.Controller`."""

    resource = MODELDEPLOYMENT

    def references(self, obj: Json) -> tuple[Key, ...]:
        """Return the FineTuneJob and the Evaluation: their events enqueue this object."""
        return tuple(key for key in reference_keys(obj) if key.name)

    async def observe(self, obj: Json, ports: Ports) -> Observed:
        """Read all that a decision needs."""
        return await observe(obj, ports)

    def decide(self, obj: Json, observed: Observed) -> Plan:
        """Decide, purely."""
        return decide(obj, observed)
