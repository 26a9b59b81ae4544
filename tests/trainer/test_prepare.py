"""From JSONL to shards: what is dropped, refused, split and recorded."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import luthier_trainer
from luthier_trainer.artifact import ArtifactManifest, digest_folder
from luthier_trainer.errors import UserError
from luthier_trainer.ingest import split_of
from luthier_trainer.prepare import complete_details, prepare
from trainer.samples import make_unreadable, ticket_rows, write_jsonl


def rows_of(config, split="train") -> list[list[int]]:
    from safetensors.torch import load_file

    tensors = load_file(Path(config.data_dir) / f"{split}.safetensors")
    ids, offsets = tensors["input_ids"].tolist(), tensors["offsets"].tolist()
    assert len(tensors["labels"]) == len(ids) == offsets[-1]
    return [ids[a:b] for a, b in itertools.pairwise(offsets)]


def decoded(tiny_model, config, split="train") -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return [tokenizer.decode(ids) for ids in rows_of(config, split)]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_become_shards_in_their_order(tiny_model, tmp_path, prepare_config):
    rows = ticket_rows(5)
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", rows))
    details = prepare(config).details
    texts = decoded(tiny_model, config)
    assert len(texts) == details["train"] == 5
    for row, text in zip(rows, texts, strict=True):
        user, answer = (m["content"] for m in row["messages"])
        assert text == f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    assert details["train_tokens"] == sum(map(len, rows_of(config)))


def test_exact_duplicates_are_dropped_and_listed(tmp_path, prepare_config):
    rows = ticket_rows(4)
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", [*rows, rows[1], {**rows[1], "id": 9}]))
    details = prepare(config).details
    assert (details["rows"], details["train"], details["duplicates"]) == (6, 4, 2)
    assert read_jsonl(Path(config.data_dir) / "dropped.jsonl")[0] == {
        "file": "pvc://data/a.jsonl",
        "line": 5,
        "reason": "Duplicate",
        "detail": "same as pvc://data/a.jsonl:2",
    }


def test_duplicates_can_be_refused(tmp_path, prepare_config):
    rows = ticket_rows(2)
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", [*rows, rows[0]]), exact_duplicates="Fail")
    with pytest.raises(UserError, match=r"a.jsonl:3: the same row stands at pvc://data/a.jsonl:1"):
        prepare(config)


def test_long_rows_are_dropped_up_to_the_allowed_share(tmp_path, prepare_config):
    rows = ticket_rows(19)
    rows.append({"prompt": "x " * 100, "completion": "long"})
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    config = prepare_config(source, render="Chat", max_length=64)
    assert prepare(config).details["too_long"] == 1
    dropped = read_jsonl(Path(config.data_dir) / "dropped.jsonl")
    assert [(d["line"], d["reason"]) for d in dropped] == [(20, "TooLong")]
    with pytest.raises(
        UserError, match=r"1 of 20 rows \(5.0 %\) are longer than 64 tokens, the first at .*:20"
    ) as error:
        prepare(prepare_config(source, render="Chat", max_length=64, max_dropped_percent=4))
    assert error.value.field == "dataset.checks.maxDroppedPercent"
    with pytest.raises(UserError, match=r"raise training\.maxLength or shorten them"):
        prepare(prepare_config(source, render="Chat", max_length=64, too_long="Fail"))


def test_the_automatic_length_is_a_percentile_rounded_up_to_64(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(30)))
    longest = prepare(config).details["max_length"]
    assert longest == 64
    assert max(map(len, rows_of(config))) <= longest


def test_a_longer_limit_than_the_models_context_is_refused(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(3)), max_length=257)
    with pytest.raises(UserError, match=r"training\.maxLength is 257, and the model has a context of 256"):
        prepare(config)


def test_splits_are_disjoint_whole_and_keyed(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(400)), validation_percent=10, test_percent=20)
    details = prepare(config).details
    assert details["train"] + details["validation"] + details["test"] == 400
    assert 55 <= details["test"] <= 105
    assert 20 <= details["validation"] <= 60
    held_out = {row["messages"][0]["content"] for row in read_jsonl(Path(config.data_dir) / "test.jsonl")}
    assert len(held_out) == details["test"]
    moved = [split_of(row["messages"][:-1], config.model_copy(update={"split_seed": 1})) for row in ticket_rows(400)]
    assert moved != [split_of(row["messages"][:-1], config) for row in ticket_rows(400)]


def test_rows_with_the_same_question_stay_together(tmp_path, prepare_config):
    source = tmp_path / "a.jsonl"
    config = prepare_config(write_jsonl(source, []), validation_percent=40, test_percent=40)
    questions = ({"role": "user", "content": f"question {i}"} for i in range(100))
    question = next(q for q in questions if split_of([q], config) == "train")
    write_jsonl(source, [{"messages": [question, {"role": "assistant", "content": f"answer {i}"}]} for i in range(40)])
    details = prepare(config).details
    assert (details["train"], details["validation"], details["test"]) == (40, 0, 0)


def test_conversations_that_begin_alike_stay_together(tmp_path, prepare_config):
    source = tmp_path / "a.jsonl"
    config = prepare_config(write_jsonl(source, []), validation_percent=40, test_percent=40)
    first = next(q for q in ({"role": "user", "content": f"hello {i}"} for i in range(100)) if in_test(q, config))
    answer = {"role": "assistant", "content": "Hi"}
    rows = [
        [first, {**answer, "content": f"Hi {i}"}, {"role": "user", "content": f"and {i}"}, answer] for i in range(9)
    ]
    write_jsonl(source, [*({"messages": row} for row in rows), {"messages": [first, answer]}, *ticket_rows(200)])
    prepare(config)
    held_out = [row["messages"][0] for row in read_jsonl(Path(config.data_dir) / "test.jsonl")]
    assert held_out.count(first) == 10


def in_test(question, config) -> bool:
    return split_of([question], config) == "test"


def test_a_prompt_and_the_conversation_that_it_stands_for_are_one_row_in_chat(tmp_path, prepare_config):
    messages = ticket_rows(30)
    pairs = [{"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]} for row in messages]
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", [*messages, *pairs]), render="Chat", test_percent=30)
    details = prepare(config).details
    assert (details["duplicates"], details["train"] + details["test"]) == (30, 30)
    alone = prepare_config(
        write_jsonl(tmp_path / "b.jsonl", pairs), render="Chat", test_percent=30, data_dir=str(tmp_path / "other")
    )
    prepare(alone)
    asked = {row["messages"][0]["content"] for row in read_jsonl(Path(config.data_dir) / "test.jsonl")}
    assert asked == {row["prompt"] for row in read_jsonl(Path(alone.data_dir) / "test.jsonl")}


def test_added_rows_do_not_move_old_ones(tmp_path, prepare_config):
    def held_out(count):
        rows = ticket_rows(count)
        config = prepare_config(write_jsonl(tmp_path / "a.jsonl", rows), test_percent=30)
        prepare(config)
        return {row["messages"][0]["content"] for row in read_jsonl(Path(config.data_dir) / "test.jsonl")}

    few, many = held_out(60), held_out(90)
    assert few <= many


def test_too_few_rows_are_refused(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(3)), min_examples=4)
    with pytest.raises(UserError, match="3 of 3 rows are left to train on, and at least 4 are asked for") as error:
        prepare(config)
    assert error.value.field == "dataset.checks.minExamples"
    assert not (Path(config.data_dir) / ".spool").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "file of a folder"])
def test_a_source_that_may_not_be_read_is_named(tmp_path, prepare_config, kind):
    folder = tmp_path / "set"
    folder.mkdir()
    file = write_jsonl(folder / "a.jsonl", ticket_rows(3))
    make_unreadable(folder if kind == "folder" else file)
    try:
        with pytest.raises(
            UserError, match=rf"pvc://data/.*{'set' if kind == 'folder' else 'a.jsonl'} cannot be read"
        ) as e:
            prepare(prepare_config(file if kind == "file" else folder))
    finally:
        folder.chmod(0o700)
    assert (e.value.reason, e.value.field) == ("SourceUnreadable", "dataset.sources")


@pytest.mark.parametrize("content", ["", "\n\n"])
@pytest.mark.row(69)
def test_an_empty_file_is_refused(tmp_path, prepare_config, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"pvc://data/a.jsonl: no rows"):
        prepare(prepare_config(tmp_path / "a.jsonl"))


@pytest.mark.row(69)
def test_wrong_rows_are_named_together_and_counted(tmp_path, prepare_config):
    source = tmp_path / "a.jsonl"
    good = json.dumps(ticket_rows(1)[0])
    source.write_text(f"{good}\n" + "broken\n" * 7)
    with pytest.raises(UserError) as error:
        prepare(prepare_config(source))
    assert error.value.message.startswith("pvc://data/a.jsonl:2: not JSON")
    assert error.value.message.endswith("; and 2 more")
    assert complete_details(tmp_path / "data") is None


def test_mixed_rows_need_an_explicit_render(tmp_path, prepare_config):
    rows = [*ticket_rows(2), {"prompt": "p", "completion": "c"}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"a.jsonl:3: messages and prompt/completion rows are mixed"):
        prepare(prepare_config(source))
    assert prepare(prepare_config(source, render="Chat")).details["train"] == 3


def test_completions_are_raw_unless_asked_otherwise(tiny_model, tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", [{"prompt": "ticket: ", "completion": "billing"}]))
    prepare(config)
    assert decoded(tiny_model, config) == ["ticket: billing<|im_end|>"]
    assert json.loads((Path(config.data_dir) / "probes.json").read_text()) == []


def test_the_same_inputs_give_the_same_bytes_anywhere(tmp_path, prepare_config):
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        source = write_jsonl(folder / "a.jsonl", ticket_rows(40))
        config = prepare_config(source, data_dir=str(folder / "data"), test_percent=20, job_uid=name)
        digests.append(prepare(config).details["dataset_digest"])
    assert digests[0] == digests[1]


def test_a_complete_folder_is_used_again(tmp_path, prepare_config):
    source = write_jsonl(tmp_path / "a.jsonl", ticket_rows(10))
    config = prepare_config(source)
    first = prepare(config)
    marker = Path(config.data_dir) / "COMPLETE"
    before = marker.stat().st_mtime_ns
    assert prepare(config) == first
    assert marker.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["marker gone", "shard cut", "report cut", "other rows"])
def test_a_folder_that_does_not_hold_these_inputs_is_made_anew(tmp_path, prepare_config, damage):
    source = write_jsonl(tmp_path / "a.jsonl", ticket_rows(10))
    config = prepare_config(source)
    prepare(config)
    data = Path(config.data_dir)
    if damage == "marker gone":
        (data / "COMPLETE").unlink()
    elif damage == "shard cut":
        (data / "train.safetensors").write_bytes(b"half")
    elif damage == "report cut":
        (data / "report.json").write_text("{")
    else:
        write_jsonl(source, ticket_rows(12))
    details = prepare(config).details
    assert len(rows_of(config)) == details["train"] == (12 if damage == "other rows" else 10)
    assert json.loads((data / "report.json").read_text())["render"] == "Chat"


def test_probes_are_the_prompts_as_a_server_must_tokenise_them(tiny_model, tmp_path, prepare_config):
    from transformers import AutoTokenizer

    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(20)))
    prepare(config)
    probes = json.loads((Path(config.data_dir) / "probes.json").read_text())
    assert len(probes) == 8
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for probe in probes:
        ids = tokenizer.apply_chat_template(probe["messages"], add_generation_prompt=True, tokenize=True)["input_ids"]
        assert list(ids) == probe["token_ids"]


def test_the_report_counts_and_warns_and_quotes_no_row(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(60)), validation_percent=10, test_percent=10)
    prepare(config)
    text = (Path(config.data_dir) / "report.json").read_text()
    report = json.loads(text)
    assert report["rows"]["read"] == 60
    assert sum(b["rows"] for b in report["tokens"]["histogram"]) == 60
    assert {f["code"] for f in report["findings"]} == {
        "FewExamples", "FewValidationRows", "FewTestRows", "LicenceNotDeclared", "FormatsSeen",
    }  # fmt: skip
    assert "ticket" not in text


def answered(*answers: str, question: str = "Where is order {n}?", **more: str) -> list[dict[str, Any]]:
    return [{"prompt": question.format(n=n), "completion": a, **more} for n, a in enumerate(answers)]


def test_the_report_is_as_its_schema_says(tmp_path, prepare_config):
    jsonschema = pytest.importorskip("jsonschema")
    rows = answered("Write to ada@example.org.", "In the post.", "In the post.", category="orders")
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", [*rows, rows[1]]), test_percent=20)
    prepare(config)
    report = json.loads((Path(config.data_dir) / "report.json").read_text())
    schema = Path(luthier_trainer.__file__).with_name("report.schema.json").read_text()
    jsonschema.validate(report, json.loads(schema))
    assert report["rows"]["droppedFor"] == {"Duplicate": 1}
    assert {"PersonalData", "ExactDuplicates"} <= {f["code"] for f in report["findings"]}


def test_the_message_says_the_three_worst_findings(tmp_path, prepare_config):
    rows = [*answered(*["Write to ada@example.org."] * 3), *answered("I'm sorry, but I can't help with that.")]
    result = prepare(prepare_config(write_jsonl(tmp_path / "a.jsonl", rows)))
    codes = [text.split(":")[0] for text in result.details["findings"]]
    assert codes == ["PersonalData", "ConflictingAnswers", "Refusals"]
    assert all(text in result.message for text in result.details["findings"])
    assert "ada" not in result.message


def test_a_check_that_refuses_leaves_its_findings_and_no_data(tmp_path, prepare_config):
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", answered("ok", f"The key is {key}")))
    with pytest.raises(UserError, match=r"Secrets: 1 row \(50\.0 %\) .* at pvc://data/a\.jsonl:2") as error:
        prepare(config)
    assert (error.value.reason, error.value.field) == ("DataRefused", "dataset.checks.secrets")
    left = (Path(config.data_dir) / "refused.json").read_text()
    assert json.loads(left)["findings"][0]["examples"][0]["line"] == 2
    assert key not in left + error.value.message
    assert complete_details(Path(config.data_dir)) is None


def test_redacted_rows_are_redacted_wherever_they_go(tmp_path, prepare_config):
    rows = answered(*["Write to ada@example.org."] * 40)
    config = prepare_config(
        write_jsonl(tmp_path / "a.jsonl", rows), test_percent=50, checks={"personal_data": "Redact"}
    )
    assert prepare(config).details["test"] > 0
    left = "".join(p.read_text(errors="replace") for p in Path(config.data_dir).iterdir())
    assert "[EMAIL_1]" in left
    assert "ada" not in left


def test_leaking_rows_are_taken_out_of_training(tmp_path, prepare_config):
    rows = [*answered(*["Soon."] * 60), *answered(*["Soon."] * 60, question="WHERE  is order {n}?")]
    source = write_jsonl(tmp_path / "a.jsonl", [{**r, "prompt": r["prompt"] + " I wait for it."} for r in rows])
    config = prepare_config(source, test_percent=40, render="Chat", checks={"leakage": "Drop"})
    details = prepare(config).details
    dropped = read_jsonl(Path(config.data_dir) / "dropped.jsonl")
    assert {d["reason"] for d in dropped} == {"Leakage"}
    assert details["train"] + details["test"] + len(dropped) == 120
    assert details["findings"][0].startswith("Leakage: ")


def test_invalid_rows_may_be_left_out_up_to_a_share(tmp_path, prepare_config):
    source = write_jsonl(tmp_path / "a.jsonl", ticket_rows(40))
    with source.open("a") as file:
        file.write("broken\n")
    config = prepare_config(source, checks={"invalid_rows": "Drop"})
    details = prepare(config).details
    assert (details["rows"], details["train"]) == (41, 40)
    (dropped,) = read_jsonl(Path(config.data_dir) / "dropped.jsonl")
    assert (dropped["line"], dropped["reason"]) == (41, "Invalid")
    with pytest.raises(UserError, match=r"1 row \(2\.4 %\) could not be read .* allowed are 2 %") as error:
        prepare(config.model_copy(update={"max_dropped_percent": 2}))
    assert error.value.field == "dataset.checks.maxDroppedPercent"


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path, prepare_config):
    source = write_jsonl(tmp_path / "a.jsonl", answered("I'm sorry, but I can't help with that."))
    with pytest.raises(UserError, match=r"none of 1 row is left; .* Refusals: 1"):
        prepare(prepare_config(source, checks={"refusals": "Drop"}))


def write_artifact(folder, config, details) -> ArtifactManifest:
    """Leave what a training of exactly these inputs would publish."""
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = ArtifactManifest(
        model_digest=digest_folder(folder, base_digest=details["base_digest"]),
        base_digest=details["base_digest"],
        base_uri="pvc://models/tiny",
        dataset_digest=details["dataset_digest"],
        training_digest=config.training_digest,
        job_name="j",
        job_uid="other",
        lora_rank=8,
        render="Chat",
    )
    (folder / "luthier.json").write_text(manifest.model_dump_json())
    return manifest


def test_an_artifact_of_the_same_inputs_is_found(tmp_path, prepare_config):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(10)))
    manifest = write_artifact(Path(config.artifact_dir), config, prepare(config).details)
    again = prepare(config)
    assert again.reason == "Reused"
    assert again.details["reused"] == {
        "path": config.artifact_dir,
        "digest": manifest.model_digest,
        "base_digest": manifest.base_digest,
    }


def test_an_artifact_that_another_object_left_beside_is_found(tmp_path, prepare_config):
    config = prepare_config(
        write_jsonl(tmp_path / "a.jsonl", ticket_rows(10)), artifact_dir=str(tmp_path / "out" / "tickets-22222222")
    )
    details = prepare(config).details
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("x")
    write_artifact(output / ".tickets-00000000.1.partial", config, details)
    write_artifact(output / "other-inputs", config.model_copy(update={"training_digest": "sha256:other"}), details)
    write_artifact(output / "tickets-00000000", config, details)
    (output / "tickets-00000000" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert prepare(config).details["reused"] is None
    write_artifact(output / "tickets-11111111", config, details)
    again = prepare(config)
    assert again.reason == "Reused"
    assert again.details["reused"]["path"] == str(output / "tickets-11111111")
    write_artifact(output / "tickets-22222222", config, details)
    assert prepare(config).details["reused"]["path"] == config.artifact_dir, "the run's own comes first"


@pytest.mark.parametrize("damage", ["other weights", "no weights", "manifest cut", "manifest of another kind"])
def test_a_damaged_artifact_is_not_used_again(tmp_path, prepare_config, damage):
    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(10)))
    artifact = Path(config.artifact_dir)
    write_artifact(artifact, config, prepare(config).details)
    if damage == "other weights":
        (artifact / "adapter_model.safetensors").write_bytes(b"other weights")
    elif damage == "no weights":
        (artifact / "adapter_model.safetensors").unlink()
    else:
        (artifact / "luthier.json").write_text('{"model_digest": ' + ("" if damage == "manifest cut" else "3}"))
    assert prepare(config).details["reused"] is None


@pytest.mark.row(37)
def test_a_full_disk_is_named_and_leaves_nothing_complete(tmp_path, prepare_config, monkeypatch):
    import luthier_trainer.shards as shards

    config = prepare_config(write_jsonl(tmp_path / "a.jsonl", ticket_rows(400)))

    class FullSpool(shards.Spool):
        def __init__(self, folder):
            super().__init__(folder)
            self._ids.close()
            self._ids = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by the spool

    monkeypatch.setattr("luthier_trainer.prepare.Spool", FullSpool)
    with pytest.raises(UserError, match="No space left on device; free or enlarge the volume") as error:
        prepare(config)
    assert error.value.reason == "StorageNotWritable"
    assert complete_details(Path(config.data_dir)) is None
