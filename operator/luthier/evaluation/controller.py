"""The Evaluation kind as the shell sees it: three hops to `observe`, `decide` and `build`."""

from __future__ import annotations

from luthier.api.evaluation import EvaluationSpec
from luthier.draft import read_spec
from luthier.evaluation.decide import decide
from luthier.evaluation.observe import Observed, observe, target_key
from luthier.plan import Json, Key, Plan
from luthier.ports import Ports
from luthier.resources import EVALUATION


class EvaluationController:
    """Implements `luthier.ports.Controller`."""

    resource = EVALUATION

    def references(self, obj: Json) -> tuple[Key, ...]:
        """Return the FineTuneJob that is judged: its end starts the Evaluation."""
        key = target_key(obj, read_spec(EvaluationSpec, obj))
        return (key,) if key is not None else ()

    async def observe(self, obj: Json, ports: Ports) -> Observed:
        """Read all that a decision needs."""
        return await observe(obj, ports)

    def decide(self, obj: Json, observed: Observed) -> Plan:
        """Decide, purely."""
        return decide(obj, observed)
