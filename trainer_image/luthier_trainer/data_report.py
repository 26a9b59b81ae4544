"""report.json of a prepared data set: counts, lengths, findings. Numbers only, never a row's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier_trainer.base_model import BaseModel
from luthier_trainer.config import PrepareConfig, PrepareDetails
from luthier_trainer.template import Renderer

_BUCKET = 64
_FEW_VALIDATION_ROWS = 50
_FEW_TEST_ROWS = 100


def build_report(
    config: PrepareConfig,
    base: BaseModel,
    details: PrepareDetails,
    renderer: Renderer,
    *,
    kinds: Mapping[str, int],
    lengths: Sequence[int],
    learned_tokens: int,
) -> dict[str, Any]:
    """Describe the data set for people and for later comparison."""
    return {
        "datasetDigest": details.dataset_digest,
        "baseModel": {"uri": config.model_uri, "digest": base.digest, "licence": base.licence},
        "sources": [source.uri for source in config.sources],
        "render": renderer.render,
        "chatTemplateSha256": renderer.template_sha256,
        "rows": {
            "read": details.rows,
            "byFormat": dict(kinds),
            "duplicates": details.duplicates,
            "tooLong": details.too_long,
            "train": details.train,
            "validation": details.validation,
            "test": details.test,
        },
        "tokens": {
            "trainOneEpoch": details.train_tokens,
            "all": sum(lengths),
            "learned": learned_tokens,
            "maxLength": details.max_length,
            "lengths": _quantiles(sorted(lengths)),
            "histogram": _histogram(lengths),
        },
        "findings": _findings(config, base, details, renderer),
    }


def _quantiles(ordered: Sequence[int]) -> dict[str, int]:
    shares = {"min": 0.0, "p50": 0.5, "p95": 0.95, "p99.5": 0.995, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}


def _histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """Count rows by length, in steps of 64 tokens; empty steps are left out."""
    counts: dict[int, int] = {}
    for length in lengths:
        bucket = -(-length // _BUCKET) * _BUCKET
        counts[bucket] = counts.get(bucket, 0) + 1
    return [{"upTo": bucket, "rows": counts[bucket]} for bucket in sorted(counts)]


def _findings(
    config: PrepareConfig, base: BaseModel, details: PrepareDetails, renderer: Renderer
) -> list[dict[str, str]]:
    findings = [
        (
            config.validation_percent > 0 and details.validation < _FEW_VALIDATION_ROWS,
            "FewValidationRows",
            f"{details.validation} validation rows; with fewer than {_FEW_VALIDATION_ROWS} their loss is noisy",
        ),
        (
            config.test_percent > 0 and details.test < _FEW_TEST_ROWS,
            "FewTestRows",
            f"{details.test} held-out rows; with fewer than {_FEW_TEST_ROWS} a HeldOut suite's gates stay undecidable",
        ),
        (
            base.licence is None,
            "LicenceNotDeclared",
            "the model's README.md and config.json declare no licence; model.licence was compared with nothing",
        ),
        (
            renderer.depends_on_date,
            "TemplateDependsOnDate",
            "the chat template prints today's date; the artifact carries no template probes",
        ),
        (details.too_long > 0, "TooLongDropped", f"{details.too_long} rows were dropped as too long"),
        (details.duplicates > 0, "DuplicatesDropped", f"{details.duplicates} rows were dropped as exact duplicates"),
    ]
    return [{"level": "Warning", "code": code, "message": message} for found, code, message in findings if found]
