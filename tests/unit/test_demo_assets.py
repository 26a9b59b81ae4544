"""What the demo's Job puts onto the claim."""

import importlib
import json
import sys

import pytest

from imagebuild.builder import ROOT


@pytest.fixture
def assets(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "hack/demo_assets"), *sys.path])
    module = importlib.import_module("assets")
    models = tmp_path / "image" / "models"
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    monkeypatch.setattr(module, "MODELS", models)
    return module


def test_model_and_data_come_onto_the_claim_and_twice_is_fine(assets, tmp_path):
    claim = tmp_path / "claim"
    for _ in range(2):
        assets.load("tiny", str(claim))
    assert sorted(p.name for p in claim.iterdir()) == ["data", "models"]
    assert (claim / "models/tiny/config.json").read_text() == "{}"
    rows = [json.loads(line) for line in (claim / "data/train.jsonl").read_text().splitlines()]
    assert len(rows) == assets.SIZES["tiny"]["train"]
    assert {p.stem for p in (claim / "data").iterdir()} >= {"train", "test", "final", "real", "general"}


def test_a_half_copied_model_is_copied_again(assets, tmp_path):
    half = tmp_path / "claim/models/.tiny.unfinished"
    half.mkdir(parents=True)
    (half / "junk").write_text("half")
    assets.load("tiny", str(tmp_path / "claim"))
    assert [p.name for p in (tmp_path / "claim/models").iterdir()] == ["tiny"]
    assert not (tmp_path / "claim/models/tiny/junk").exists()


def test_an_unknown_model_is_refused_with_the_names_there_are(assets, tmp_path):
    with pytest.raises(SystemExit, match="no model 'huge'; there are smollm2, tiny"):
        assets.load("huge", str(tmp_path))
    assert list(tmp_path.glob("models")) == []
