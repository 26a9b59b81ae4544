"""The layout's traps."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_folder_operator_is_not_a_package():
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_test_folder_is_named_after_a_package():
    names = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()}
    assert "operator" not in names
