"""Options and fixtures that every tier shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.yaml from what the code makes")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say in junit's report which rows of the table of faults a test shows."""
    for mark in item.iter_markers("row"):
        item.user_properties += [("row", number) for number in mark.args]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare a manifest with its golden file, or rewrite the file under --update-golden."""

    def check(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.yaml"
        if request.config.getoption("--update-golden"):
            path.write_text(yaml.safe_dump(value, sort_keys=True, width=110))
        assert path.is_file(), f"{path.name} is missing; run pytest --update-golden and read the diff"
        assert value == yaml.safe_load(path.read_text())

    return check
