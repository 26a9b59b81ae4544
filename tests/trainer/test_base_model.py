"""A base model's folder is data: what may hold code, or is not whole, is refused."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace

import pytest

from luthier_trainer.base_model import check_licence, open_base_model
from luthier_trainer.errors import UserError
from trainer.samples import make_unreadable

URI = "pvc://models/tiny"


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_model_is_described(folder):
    model = open_base_model(folder, URI)
    assert model.digest.startswith("sha256:")
    assert model.context_length == 256
    assert model.licence is None


def test_the_digest_follows_the_weights_and_not_the_card(folder):
    before = open_base_model(folder, URI).digest
    (folder / "README.md").write_text("# words")
    assert open_base_model(folder, URI).digest == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert open_base_model(folder, URI).digest != before


@pytest.mark.parametrize("name", ["modeling_x.py", "pytorch_model.bin", "sub/optimizer.pt", "x.pkl", "native.so"])
@pytest.mark.row(75)
def test_files_that_may_hold_code_are_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} may hold code"):
        open_base_model(folder, URI)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.row(75)
def test_a_model_that_asks_for_code_of_its_own_is_refused(folder, name):
    edit_json(folder / name, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    with pytest.raises(UserError, match=f"{name} asks for code"):
        open_base_model(folder, URI)


@pytest.mark.row(71)
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "secret").write_text("s")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"notes.txt is a link that leads out"):
        open_base_model(folder, URI)


def test_a_model_that_is_a_link_out_of_its_place_is_refused(folder, tmp_path):
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "model").symlink_to(folder)
    with pytest.raises(UserError, match="is a link that leads out"):
        open_base_model(tmp_path / "claim" / "model", URI)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match="safetensors" if name.startswith("model") else name):
        open_base_model(folder, URI)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", ""])
def test_a_file_that_may_not_be_read_is_named(folder, name):
    make_unreadable(folder / name)
    try:
        with pytest.raises(UserError, match=rf"{URI}: .*/model/?{name}.* cannot be read") as caught:
            open_base_model(folder, URI)
    finally:
        folder.chmod(0o700)
    assert (caught.value.reason, caught.value.field) == ("ModelUnreadable", "model.uri")


def header(tensors: dict, data: bytes) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(struct.pack("<Q", 1 << 60) + b"{}", id="huge header"),
        pytest.param(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8), id="rest"),
        pytest.param(header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"\0" * 4), id="too short"),
        pytest.param(
            header(
                {
                    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                    "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
                },
                b"\0" * 6,
            ),
            id="overlap",
        ),
    ],
)
@pytest.mark.row(75)
def test_unsound_safetensors_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors is not sound"):
        open_base_model(folder, URI)


def test_an_index_must_name_files_of_the_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
    with pytest.raises(UserError, match=r"\.\./other/model.safetensors, named by the weights' index, is missing"):
        open_base_model(folder, URI)


@pytest.mark.parametrize("card", ["---\nlicense: mit\n---\n# x", "---\nlicense:\n- mit\n---\n"])
def test_the_cards_licence_is_compared_with_the_accepted_one(folder, card):
    (folder / "README.md").write_text(card)
    model = open_base_model(folder, URI)
    check_licence(model, "MIT", URI)
    check_licence(model, None, URI)
    with pytest.raises(UserError, match=r"declares the licence mit, and model\.licence accepts apache-2\.0") as caught:
        check_licence(model, "apache-2.0", URI)
    assert caught.value.field == "model.licence"


def test_without_a_declared_licence_nothing_can_be_compared(folder):
    check_licence(replace(open_base_model(folder, URI), licence=None), "apache-2.0", URI)
