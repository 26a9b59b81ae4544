"""docs/data.md knows every check, every finding and every format, and its manifests are accepted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from luthier.api.finetunejob import DataChecks, DataSource, FineTuneJobSpec
from luthier_trainer.checks.catalogue import CATALOGUE
from luthier_trainer.config import ChecksConfig, Source

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()
TRAINER = ROOT / "trainer_image" / "luthier_trainer"
SELF_EVIDENT = {"LicenceNotDeclared", "TemplateDependsOnDate", "FormatsSeen", "RejectedUnused"}
"""About the model, or facts without a task."""


def codes() -> set[str]:
    made = (
        re.findall(r'code="(\w+)"', path.read_text()) for path in [*TRAINER.glob("*.py"), *TRAINER.glob("checks/*.py")]
    )
    listed = re.findall(r'^ {12}"(\w+)",$', (TRAINER / "data_report.py").read_text(), re.MULTILINE)
    return {*CATALOGUE, *(code for found in made for code in found), *listed}


def test_every_finding_is_on_the_page():
    assert "FewTestRows" in codes(), "the pattern no longer sees the findings about the whole set"
    assert {code for code in codes() - SELF_EVIDENT if f"`{code}`" not in PAGE} == set()


def test_every_check_is_on_the_page_with_its_default():
    for field in DataChecks.model_fields.values():
        assert re.search(rf"\b{field.alias}\b", PAGE), field.alias
        if isinstance(field.default, str) and field.alias in re.findall(r"\| `(\w+): \w+`", PAGE):
            assert f"`{field.alias}: {field.default}`" in PAGE


def test_the_data_step_and_the_api_have_the_same_defaults_and_formats():
    told = ChecksConfig().model_dump()
    assert DataChecks().model_dump(include=set(told)) == told
    formats = get_args(DataSource.model_fields["format"].annotation)
    assert formats == get_args(Source.model_fields["format"].annotation)
    assert all(f"`{name}`" in PAGE for name in formats)


def test_the_catalogue_names_settings_that_exist():
    assert {entry.setting for entry in CATALOGUE.values()} <= set(ChecksConfig.model_fields)
    aliases = {f"dataset.checks.{field.alias}" for field in DataChecks.model_fields.values()}
    assert {entry.field for entry in CATALOGUE.values()} <= aliases


@pytest.mark.parametrize("manifest", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_pages_manifests_are_accepted(manifest):
    rest = {"model": {"uri": "pvc://work/model"}, "output": {"uri": "pvc://work/out"}}
    dataset = FineTuneJobSpec.model_validate({**rest, **yaml.safe_load(manifest)}).dataset
    assert dataset.model_dump(by_alias=True, exclude_unset=True) == yaml.safe_load(manifest)["dataset"]


def test_what_the_page_links_to_is_there():
    for target in re.findall(r"\]\((\.\./[^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
