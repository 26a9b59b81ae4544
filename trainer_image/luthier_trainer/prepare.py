"""`prepare`: from JSONL to token shards, a report and held-out rows; everything is refused here, before a GPU is taken.

One path: check the base → read, validate, render, tokenise each row → drop duplicates → split → drop what is too
long → write shards and reports → COMPLETE, last. The same inputs give the same bytes on every machine, so
`dataset_digest` names them; a complete folder of the same inputs is used again.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import cast

from luthier_trainer import base_model
from luthier_trainer.artifact import sha256_file
from luthier_trainer.base_model import BaseModel
from luthier_trainer.checks.catalogue import CATALOGUE
from luthier_trainer.config import PrepareConfig, PrepareDetails, StepResult
from luthier_trainer.data_report import build_report, set_findings
from luthier_trainer.errors import UserError, writing_to
from luthier_trainer.files import canonical_json, dump_json, read_json, sync, write_atomic
from luthier_trainer.findings import worst_first
from luthier_trainer.ingest import PROBES, Ingested, ingest
from luthier_trainer.published import find_equal
from luthier_trainer.rows import Row, read_rows, source_digests
from luthier_trainer.shards import Split, Spool
from luthier_trainer.template import Renderer, Tokenizer, stop_token_ids

COMPLETE = "COMPLETE"
REFUSED = "refused.json"
SHOWN_FINDINGS = 3
_FINDING_CHARACTERS = 200
_FORMAT_VERSION = 2
"""Part of the input digest: raise it when the same inputs would give other shards."""
_SHARDS = ("train.safetensors", "validation.safetensors", "test.jsonl")
"""What the data set's digest names; the rest tells where it came from."""
_DATA_FILES = (*_SHARDS, "probes.json", "report.json")
_AUTO_PER_MILLE = 995
_LENGTH_STEP = 64


def prepare(config: PrepareConfig) -> StepResult:
    """Prepare a data set, or find that it stands there already.

    Raises:
        UserError: The base, a source, a row or the result's size is not acceptable; nothing is left half-made.
    """
    base = base_model.open_base_model(Path(config.model_path), config.model_uri)
    base_model.check_licence(base, config.accepted_licence, config.model_uri)
    inputs = _inputs_digest(config, base)
    details = complete_details(Path(config.data_dir), inputs)
    if details is None:
        details = _build(config, base, inputs)
    reused = find_equal(
        Path(config.artifact_dir),
        dataset=details.dataset_digest,
        training=config.training_digest,
        base=details.base_digest,
    )
    details = details.model_copy(update={"reused": reused})
    return StepResult(
        outcome="Succeeded",
        reason="Reused" if reused else "Prepared",
        message="; ".join(
            [
                f"{details.train} rows to train on, {details.validation} to validate, {details.test} held out",
                f"{details.duplicates} duplicates and {details.too_long} too long rows dropped",
                *details.findings,
            ]
        ),
        details=details.model_dump(mode="json"),
    )


def _inputs_digest(config: PrepareConfig, base: BaseModel) -> str:
    """Digest everything that shapes the shards; paths and the run's identity do not."""
    shape = config.model_dump(
        include={
            "render", "validation_percent", "test_percent", "split_seed", "min_examples", "too_long",
            "max_dropped_percent", "exact_duplicates", "max_length", "checks",
        }
    )  # fmt: skip
    sources = [[source.format, source.fields, *source_digests(source)] for source in config.sources]
    value = {"version": _FORMAT_VERSION, "shape": shape, "sources": sources, "base": base.digest}
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def complete_details(data_dir: Path, inputs: str | None = None) -> PrepareDetails | None:
    """Return what a complete data folder holds; None when it is absent, half-made, damaged or of other inputs."""
    marker = read_json(data_dir / COMPLETE)
    if not isinstance(marker, dict) or (inputs is not None and marker["inputs"] != inputs):
        return None
    for name, digest in marker["files"].items():
        path = data_dir / name
        if not path.is_file() or sha256_file(path) != digest:
            return None
    return PrepareDetails.model_validate(marker["details"])


def _build(config: PrepareConfig, base: BaseModel, inputs: str) -> PrepareDetails:
    data_dir = Path(config.data_dir)
    with writing_to(data_dir, what="the prepared data", field="workspace.claimName"):
        _clear(data_dir)
        tokenizer = _load_tokenizer(base)
        eos_ids = stop_token_ids(base.path, tokenizer)
        renderer = Renderer(tokenizer, eos_ids=eos_ids, render=config.render or _render_of_data(config))
        with Spool(data_dir / ".spool") as spool:
            ingested = ingest(config, renderer, spool, spool.folder / "test")
            refuse_errors(data_dir, ingested)
            max_length = _max_length(config, ingested, base)
            _drop_too_long(config, ingested, max_length)
            details = _write(config, base, ingested, renderer, max_length)
        marker = {
            "inputs": inputs,
            "details": details.model_dump(mode="json"),
            "files": {name: sha256_file(data_dir / name) for name in _DATA_FILES},
        }
        sync(data_dir)
        write_atomic(data_dir / COMPLETE, dump_json(marker))
    return details


def refuse_errors(data_dir: Path, ingested: Ingested) -> None:
    """Stop where a check refuses; what it found is left for people in refused.json, and that is no prepared data."""
    errors = [finding for finding in worst_first(ingested.findings) if finding.level == "Error"]
    if not errors:
        return
    report = {"findings": [finding.to_json() for finding in worst_first(ingested.findings)]}
    write_atomic(data_dir / REFUSED, dump_json(report))
    worst = errors[0]
    field = CATALOGUE[worst.code].field if worst.code in CATALOGUE else "dataset.checks.categories"
    said = "; ".join(f"{finding.code}: {finding.message}" for finding in errors[:SHOWN_FINDINGS])
    raise UserError("DataRefused", f"{said}. {worst.hint}; {REFUSED} beside the data lists rows", field=field)


def _clear(data_dir: Path) -> None:
    """Remove a half-made or outdated folder's files, the marker first."""
    (data_dir / COMPLETE).unlink(missing_ok=True)
    if data_dir.exists():
        shutil.rmtree(data_dir)
    data_dir.mkdir(parents=True)


def _load_tokenizer(base: BaseModel) -> Tokenizer:
    from transformers import AutoTokenizer  # seconds to import: after the cheap checks

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            "TokenizerUnusable", f"the model's tokenizer can't be loaded: {error}", field="model.uri"
        ) from error
    return cast("Tokenizer", tokenizer)


def _render_of_data(config: PrepareConfig) -> str:
    """Choose Chat or Raw by the first good row; `ingest` refuses rows of the other kind."""
    for source in config.sources:
        for row in read_rows(source):
            if isinstance(row, Row):
                return "Chat" if row.kind == "Messages" else "Raw"
    return "Chat"


def _max_length(config: PrepareConfig, ingested: Ingested, base: BaseModel) -> int:
    """Return the longest row allowed: as asked for, or the 99.5th percentile rounded up to 64."""
    limit = base.context_length
    if config.max_length is not None:
        if limit is not None and config.max_length > limit:
            raise UserError(
                "MaxLengthTooLarge",
                f"training.maxLength is {config.max_length}, and the model has a context of {limit}",
                field="training.maxLength",
            )
        return config.max_length
    lengths = sorted(ingested.spool.lengths)
    rank = math.ceil(len(lengths) * _AUTO_PER_MILLE / 1000) - 1
    rounded = math.ceil(lengths[rank] / _LENGTH_STEP) * _LENGTH_STEP
    return min(rounded, limit) if limit is not None else rounded


def _drop_too_long(config: PrepareConfig, ingested: Ingested, max_length: int) -> None:
    lengths = enumerate(ingested.spool.lengths)
    too_long = [row for row, length in lengths if length > max_length and row not in ingested.gone]
    for row in too_long:
        ingested.drop(
            ingested.places[row], "TooLong", f"{ingested.spool.lengths[row]} tokens, allowed are {max_length}"
        )
    if not too_long:
        return
    share = 100 * len(too_long) / len(ingested.splits)
    summary = (
        f"{len(too_long)} of {len(ingested.splits)} rows ({share:.1f} %) are longer than {max_length} tokens, "
        f"the first at {ingested.places[too_long[0]]}"
    )
    if config.too_long == "Fail":
        raise UserError(
            "RowsTooLong", f"{summary}; raise training.maxLength or shorten them", field="training.maxLength"
        )
    if share > config.max_dropped_percent:
        raise UserError(
            "TooManyRowsTooLong",
            f"{summary}; allowed are {config.max_dropped_percent} %: raise training.maxLength, shorten the rows, or "
            "raise dataset.checks.maxDroppedPercent",
            field="dataset.checks.maxDroppedPercent",
        )


def _write(
    config: PrepareConfig, base: BaseModel, ingested: Ingested, renderer: Renderer, max_length: int
) -> PrepareDetails:
    data_dir = Path(config.data_dir)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    rows = {split: ingested.rows_of(split, max_length=max_length) for split in splits}
    if len(rows["train"]) < config.min_examples:
        raise UserError(
            "TooFewExamples",
            f"{len(rows['train'])} of {ingested.rows} rows are left to train on, and at least {config.min_examples} "
            "are asked for; add data, take smaller splits, or lower dataset.checks.minExamples",
            field="dataset.checks.minExamples",
        )
    ingested.spool.write_shard(data_dir / "train.safetensors", rows["train"])
    ingested.spool.write_shard(data_dir / "validation.safetensors", rows["validation"])
    _write_held_out(data_dir, ingested, set(rows["test"]))
    _write_probes(data_dir / "probes.json", ingested, renderer)
    findings = worst_first(
        [
            *ingested.findings,
            *set_findings(config, base, ingested, renderer, rows={name: len(rows[name]) for name in rows}),
        ]
    )
    details = PrepareDetails(
        dataset_digest=_dataset_digest(data_dir, max_length, renderer.render),
        base_digest=base.digest,
        rows=ingested.rows,
        train=len(rows["train"]),
        validation=len(rows["validation"]),
        test=len(rows["test"]),
        duplicates=ingested.duplicates.rows,
        too_long=sum(d["reason"] == "TooLong" for d in ingested.dropped),
        train_tokens=sum(ingested.spool.lengths[row] for row in rows["train"]),
        max_length=max_length,
        findings=tuple(f"{f.code}: {f.message}"[:_FINDING_CHARACTERS] for f in findings[:SHOWN_FINDINGS]),
    )
    report = build_report(config, base, details, renderer, ingested=ingested, findings=findings)
    write_atomic(data_dir / "report.json", dump_json(report))
    with (data_dir / "dropped.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in ingested.dropped)
    return details


def _write_held_out(data_dir: Path, ingested: Ingested, kept: set[int]) -> None:
    rows = (row for row, split in enumerate(ingested.splits) if split == "test")
    with (ingested.spool.folder / "test").open("rb") as source, (data_dir / "test.jsonl").open("wb") as target:
        target.writelines(line for row, line in zip(rows, source, strict=True) if row in kept)
    sync(data_dir / "test.jsonl")


def _write_probes(path: Path, ingested: Ingested, renderer: Renderer) -> None:
    chosen = sorted(ingested.probes, key=lambda p: p[0])[:PROBES]
    unusable = renderer.render == "Raw" or renderer.depends_on_date
    probes = [] if unusable else [{"messages": m, "token_ids": renderer.prompt_ids(m)} for _, m in chosen]
    path.write_text(dump_json(probes), encoding="utf-8")


def _dataset_digest(data_dir: Path, max_length: int, render: str) -> str:
    files = {name: sha256_file(data_dir / name) for name in _SHARDS}
    value = {"files": files, "max_length": max_length, "render": render}
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()
