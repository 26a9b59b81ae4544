"""Settings come from the environment, in the forms that people and charts write."""

import pytest

from luthier.settings import Settings


def test_the_defaults_work():
    assert Settings().watch_namespaces == []


@pytest.mark.parametrize("text", ["team-a, team-b", '["team-a","team-b"]', "team-a,team-b,"])
def test_namespaces_by_commas_or_as_json(monkeypatch, text):
    monkeypatch.setenv("LUTHIER_WATCH_NAMESPACES", text)
    assert Settings().watch_namespaces == ["team-a", "team-b"]


def test_resources_are_json(monkeypatch):
    monkeypatch.setenv("LUTHIER_DEFAULT_SERVING_RESOURCES", '{"limits":{"memory":"8Gi"}}')
    assert Settings().default_serving_resources.limits == {"memory": "8Gi"}


def test_a_wrong_value_names_its_setting(monkeypatch):
    monkeypatch.setenv("LUTHIER_WORKERS", "none")
    with pytest.raises(ValueError, match="workers"):
        Settings()


@pytest.mark.row(78)
def test_headers_are_never_printed(monkeypatch):
    monkeypatch.setenv("LUTHIER_PROMETHEUS_HEADERS", '{"Authorization":"Bearer hush"}')
    settings = Settings()
    assert settings.prometheus_headers["Authorization"] == "Bearer hush"
    assert "hush" not in repr(settings)
