"""report.json of a prepared data set: counts, lengths, findings. Of a row's text only masked excerpts of findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from luthier_trainer.base_model import BaseModel
from luthier_trainer.checks.tally import rows_text
from luthier_trainer.config import PrepareConfig, PrepareDetails
from luthier_trainer.findings import Finding, about_the_set
from luthier_trainer.ingest import Ingested
from luthier_trainer.shards import Split
from luthier_trainer.template import Renderer

_BUCKET = 64
_FEW_EXAMPLES = 500
_FEW_VALIDATION_ROWS = 50
_FEW_TEST_ROWS = 100


def build_report(
    config: PrepareConfig,
    base: BaseModel,
    details: PrepareDetails,
    renderer: Renderer,
    *,
    ingested: Ingested,
    findings: Sequence[Finding],
) -> dict[str, Any]:
    """Describe the data set for people and for later comparison."""
    lengths = ingested.spool.lengths
    return {
        "datasetDigest": details.dataset_digest,
        "baseModel": {"uri": config.model_uri, "digest": base.digest, "licence": base.licence},
        "sources": [source.uri for source in config.sources],
        "render": renderer.render,
        "chatTemplateSha256": renderer.template_sha256,
        "rows": {
            "read": details.rows,
            "byFormat": dict(ingested.formats),
            "byCategory": ingested.categories,
            "droppedFor": dict(Counter(entry["reason"] for entry in ingested.dropped)),
            "duplicates": details.duplicates,
            "tooLong": details.too_long,
            "train": details.train,
            "validation": details.validation,
            "test": details.test,
        },
        "tokens": {
            "trainOneEpoch": details.train_tokens,
            "all": sum(lengths),
            "learned": ingested.learned_tokens,
            "maxLength": details.max_length,
            "lengths": _quantiles(sorted(lengths)),
            "histogram": _histogram(lengths),
        },
        "findings": [finding.to_json() for finding in findings],
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


def set_findings(
    config: PrepareConfig, base: BaseModel, ingested: Ingested, renderer: Renderer, *, rows: Mapping[Split, int]
) -> list[Finding]:
    """Say what the counts of a data set mean: `rows` are those left in each split."""
    too_long = sum(d["reason"] == "TooLong" for d in ingested.dropped)
    share = round(too_long / ingested.rows, 6)
    found: list[tuple[bool, str, str, str]] = [
        (
            rows["train"] < _FEW_EXAMPLES,
            "FewExamples",
            f"{rows['train']} rows to train on; fewer than {_FEW_EXAMPLES} seldom teach more than a form of answer",
            "add examples, the rare cases first; look at validation loss and an Evaluation before you trust the result",
        ),
        (
            config.validation_percent > 0 and rows["validation"] < _FEW_VALIDATION_ROWS,
            "FewValidationRows",
            f"{rows['validation']} validation rows; with fewer than {_FEW_VALIDATION_ROWS} their loss is noisy",
            "add rows, or raise dataset.splits.validationPercent",
        ),
        (
            config.test_percent > 0 and rows["test"] < _FEW_TEST_ROWS,
            "FewTestRows",
            f"{rows['test']} held-out rows; with fewer than {_FEW_TEST_ROWS} a HeldOut suite's gates stay undecidable",
            "add rows, raise dataset.splits.testPercent, or give the Evaluation a suite of its own",
        ),
        (
            base.licence is None,
            "LicenceNotDeclared",
            "the model's README.md and config.json declare no licence; model.licence was compared with nothing",
            "find out under which licence the model may be used",
        ),
        (
            renderer.depends_on_date,
            "TemplateDependsOnDate",
            "the chat template prints today's date; the artifact carries no template probes",
            "use a template without the date if a server should prove that it renders alike",
        ),
    ]
    findings = [about_the_set(code=code, message=message, hint=hint) for is_so, code, message, hint in found if is_so]
    if ingested.duplicates.rows:
        findings.append(
            ingested.duplicates.finding(
                code="ExactDuplicates", mode="Drop", of=ingested.rows, what="stand there twice and were dropped",
                hint="nothing has to be done; many of them may come from an export that ran twice",
            )
        )  # fmt: skip
    if pairs := ingested.formats["Preference"]:
        findings.append(
            about_the_set(
                code="RejectedUnused", level="Info",
                message=f"of {pairs} preference pairs only the chosen answer is learned",
                hint="nothing has to be done; method SFT has no use for the rejected ones",
            )
        )  # fmt: skip
    seen = ", ".join(f"{count} as {name}" for name, count in ingested.formats.most_common())
    findings.append(
        about_the_set(
            code="FormatsSeen", level="Info", message=f"rows were read {seen}",
            hint="set the source's format when that is not what you meant",
        )
    )  # fmt: skip
    if too_long:
        findings.append(
            Finding(
                code="TooLong", level="Warning", action="Dropped", rows=too_long, share=share,
                message=f"{rows_text(too_long)} ({100 * share:.1f} %) were dropped as longer than the limit",
                hint="shorten them, or raise training.maxLength; dropped.jsonl names each line",
            )
        )  # fmt: skip
    return findings
