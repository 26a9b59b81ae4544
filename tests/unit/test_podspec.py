"""What a container sees of what was written into its pod."""

import re

import pytest

from luthier.podspec import build_env, read_env


def expanded(value: str) -> str:
    """Return a value as the kubelet hands it to a container in which only HOME is set."""
    known = {"$$": "$", "$(HOME)": "/tmp"}
    return re.sub(r"\$\$|\$\([^)]*\)", lambda found: known.get(found[0], found[0]), value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("plain", id="a value without a dollar"),
        pytest.param('{"pattern": "^[a-z]+$"}', id="a pattern that ends in a dollar"),
        pytest.param("cost: $$5, $$$", id="dollars side by side"),
        pytest.param("$(HOME) and $(OTHER)", id="what looks like a reference"),
        pytest.param("$$(HOME)", id="what looks like an escaped reference"),
    ],
)
def test_a_container_sees_a_value_as_it_was_given(value):
    (env,) = build_env({"CONFIG": value})
    assert expanded(env["value"]) == value
    assert read_env({"env": [env]}, "CONFIG") == value
