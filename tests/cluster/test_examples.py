"""Every example of ours is accepted by the API server as it stands, README's included."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OURS = ("FineTuneJob", "Evaluation", "ModelDeployment")
pytestmark = pytest.mark.cluster


def manifests() -> list[tuple[str, dict]]:
    found = []
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        found += [(str(path.relative_to(ROOT)), m) for m in yaml.safe_load_all(path.read_text())]
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)):
        found += [(f"README.md block {number}", m) for m in yaml.safe_load_all(block)]
    return [(where, m) for where, m in found if m["kind"] in OURS]


@pytest.mark.parametrize(("where", "manifest"), manifests(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_api_server_accepts_it(where, manifest, kubectl, installed, namespace):
    manifest["metadata"]["namespace"] = namespace
    kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(manifest))


def test_each_kind_has_an_example():
    assert {m["kind"] for _, m in manifests()} == set(OURS)
