"""What is refused before anything is loaded, over small folders."""

import json

import pytest

from luthier_server.config import ServerConfig
from luthier_server.verify import RefusedError, verify
from luthier_trainer.artifact import digest_folder
from standin.model import Behaviour, write_artifact, write_base


@pytest.fixture
def models(tmp_path):
    base_digest = write_base(tmp_path / "base")
    digest = write_artifact(tmp_path / "adapter", base=tmp_path / "base")
    return tmp_path, base_digest, digest


def _config(models, **fields):
    folder, base_digest, digest = models
    given = {
        "base_path": str(folder / "base"),
        "base_digest": base_digest,
        "adapter_path": str(folder / "adapter"),
        "model_digest": digest,
        "served_model_name": "support",
    }
    return ServerConfig(**{**given, **fields})


def test_what_is_as_configured_passes(models):
    verified = verify(_config(models))
    assert (verified.base.name, verified.adapter.name, verified.lora_rank) == ("base", "adapter", 16)
    assert len(verified.probes) == 1


def test_digests_that_nobody_gave_are_those_of_luthier_json(models):
    folder, _, _ = models
    unknown = _config(models, base_digest="", model_digest=None)
    assert verify(unknown).adapter == folder / "adapter"
    (folder / "base" / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(RefusedError) as error:
        verify(unknown)
    assert error.value.reason == "DigestMismatch"


def test_a_base_without_an_adapter_passes(models):
    verified = verify(_config(models, adapter_path=None, model_digest=None))
    assert (verified.adapter, verified.probes) == (None, ())


def test_template_and_generation_config_are_the_artifacts_before_the_bases(models):
    folder, _, _ = models
    for name in ("base", "adapter"):
        (folder / name / "chat_template.jinja").write_text(name)
    (folder / "base" / "generation_config.json").write_text("{}")
    digests = {"base_digest": digest_folder(folder / "base")}
    manifest = json.loads((folder / "adapter" / "luthier.json").read_text())
    (folder / "adapter" / "luthier.json").write_text(json.dumps({**manifest, **digests}))
    digests["model_digest"] = digest_folder(folder / "adapter", base_digest=digests["base_digest"])
    verified = verify(_config(models, **digests))
    assert verified.chat_template == folder / "adapter" / "chat_template.jinja"
    assert verified.generation_config == folder / "base"


def _remove_manifest(folder):
    (folder / "adapter" / "luthier.json").unlink()


def _break_manifest(folder):
    (folder / "adapter" / "luthier.json").write_text("{")


def _tamper_adapter(folder):
    with (folder / "adapter" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")


def _tamper_base(folder):
    (folder / "base" / "config.json").write_text('{"model_type": "other"}')


def _add_tokenizer(folder):
    (folder / "adapter" / "tokenizer.json").write_text("{}")


def _add_code(folder):
    (folder / "base" / "modeling_x.py").write_text("")


def _add_pickle(folder):
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"")


def _add_auto_map(folder):
    (folder / "base" / "config.json").write_text('{"auto_map": {"AutoModel": "x--y.Z"}}')


def _remove_weights(folder):
    (folder / "base" / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (_remove_manifest, "ArtifactIncomplete", "no luthier.json"),
        (_break_manifest, "ArtifactIncomplete", "publish again"),
        (_tamper_adapter, "DigestMismatch", "have changed since"),
        (_add_tokenizer, "DigestMismatch", "have changed since"),
        (_tamper_base, "DigestMismatch", "have changed since"),
        (_add_code, "UnsafeModel", "modeling_x.py"),
        (_add_pickle, "UnsafeModel", "adapter_model.bin"),
        (_add_auto_map, "UnsafeModel", "auto_map"),
        (_remove_weights, "ModelNotFound", "no .safetensors"),
    ],
)
@pytest.mark.row(76)
def test_a_changed_folder_is_refused(models, change, reason, words):
    change(models[0])
    with pytest.raises(RefusedError, match=words) as refused:
        verify(_config(models))
    assert refused.value.reason == reason


def test_an_adapter_of_another_base_is_refused_by_name(models):
    folder, _, _ = models
    other = write_base(folder / "other", name="other")
    with pytest.raises(RefusedError, match=f"pvc://models/base.*{other}") as refused:
        verify(_config(models, base_path=str(folder / "other"), base_digest=other))
    assert refused.value.reason == "BaseMismatch"


@pytest.mark.row(76)
def test_another_artifact_than_the_evaluated_one_is_refused(models):
    folder, _, digest = models
    write_artifact(folder / "newer", base=folder / "base", behaviour=Behaviour(error_rate=0.5))
    with pytest.raises(RefusedError, match=digest) as refused:
        verify(_config(models, adapter_path=str(folder / "newer")))
    assert refused.value.reason == "DigestMismatch"


@pytest.mark.parametrize("field", ["base_path", "adapter_path"])
def test_a_missing_folder_is_named(models, field):
    with pytest.raises(RefusedError, match=f"{field}: /nowhere") as refused:
        verify(_config(models, **{field: "/nowhere"}))
    assert (refused.value.reason, refused.value.field) == ("ModelNotFound", field)


def test_a_digest_without_its_artifact_is_refused(models):
    with pytest.raises(RefusedError, match="no adapter_path"):
        verify(_config(models, adapter_path=None))


@pytest.mark.parametrize(("rank", "told"), [(4, 16), (16, 16), (17, 32), (512, 512)])
def test_the_engine_is_told_a_rank_that_it_allows(models, rank, told):
    digest = _with_rank(models, rank)
    assert verify(_config(models, model_digest=digest)).lora_rank == told


def test_a_rank_that_no_engine_setting_holds_is_refused(models):
    digest = _with_rank(models, 600)
    with pytest.raises(RefusedError, match="600 is above 512") as refused:
        verify(_config(models, model_digest=digest))
    assert refused.value.reason == "UnsupportedAdapter"


def _with_rank(models, rank):
    folder, base_digest, _ = models
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return digest_folder(folder / "adapter", base_digest=base_digest)
