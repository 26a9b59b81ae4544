"""What is wrong with an Evaluation: what the API server's rules cannot see, or let pass before they were made. Pure."""

from __future__ import annotations

import json

from luthier.api.evaluation import EvaluationSpec
from luthier.errors import InvalidSpec
from luthier.evaluation.build import TARGET
from luthier.evaluation.target import Target

MAX_CONFIG_BYTES = 120_000


def check_spec(spec: EvaluationSpec) -> None:
    """Refuse what can never work.

    Raises:
        InvalidSpec: With the field and the way out.
    """
    for i, baseline in enumerate(spec.baselines or ()):
        if baseline.name == TARGET:
            raise InvalidSpec(f"spec.baselines[{i}].name", f"{TARGET!r} is what is judged; choose another name")
    for i, suite in enumerate(spec.suites):
        if suite.generation.max_tokens >= spec.serving_profile.max_model_len:
            raise InvalidSpec(
                f"spec.suites[{i}].generation.maxTokens",
                f"{suite.generation.max_tokens} leaves no room for a prompt in servingProfile.maxModelLen "
                f"{spec.serving_profile.max_model_len}; lower one or raise the other",
            )
        for j, metric in enumerate(suite.metrics):
            _check_schema(metric.json_schema, field=f"spec.suites[{i}].metrics[{j}].jsonSchema")


def _check_schema(text: str | None, *, field: str) -> None:
    if text is None:
        return
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise InvalidSpec(field, f"is not JSON ({error}); write a JSON Schema as JSON text") from None
    if not isinstance(schema, dict | bool):
        raise InvalidSpec(field, f"is {type(schema).__name__}, not a JSON Schema; write an object")


def check_size(spec: EvaluationSpec, config: str) -> None:
    """Refuse what the kernel would: one environment variable holds 128 KiB.

    Raises:
        InvalidSpec: Prompts, examples and schemas are too long together.
    """
    size = len(config.encode())
    if size > MAX_CONFIG_BYTES:
        field = "spec.baselines" if spec.baselines else "spec.suites"
        raise InvalidSpec(
            field,
            f"prompts, examples and schemas make {size} bytes together, and at most {MAX_CONFIG_BYTES} can be handed "
            "to the evaluator; use fewer or shorter examples",
        )


def check_held_out(spec: EvaluationSpec, target: Target) -> None:
    """Refuse a suite that has no rows.

    Raises:
        InvalidSpec: The FineTuneJob held out nothing.
    """
    for i, suite in enumerate(spec.suites):
        if suite.dataset_uri is None and target.test_uri is None:
            raise InvalidSpec(
                f"spec.suites[{i}].datasetUri",
                "is absent, and the FineTuneJob held out no rows; name a .jsonl file here, "
                "or train with dataset.splits.testPercent above 0",
            )
