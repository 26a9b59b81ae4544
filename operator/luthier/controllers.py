"""The three kinds, by name: what the operator knows how to work on."""

from __future__ import annotations

from typing import Any

from luthier.deployment.controller import ModelDeploymentController
from luthier.evaluation.controller import EvaluationController
from luthier.finetune.controller import FineTuneJobController
from luthier.ports import Controller


def all_controllers() -> dict[str, Controller[Any]]:
    """Return each kind's controller."""
    controllers: tuple[Controller[Any], ...] = (
        FineTuneJobController(),
        EvaluationController(),
        ModelDeploymentController(),
    )
    return {controller.resource.kind: controller for controller in controllers}
