"""A real API server on loopback with our CRDs, for as long as the test session lasts."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from localcluster import ControlPlane

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Yield a running control plane without our CRDs."""
    with ControlPlane(f"tests-{os.getpid()}") as running:
        yield running


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane):
    """Return a function that runs kubectl and returns the finished process."""

    def run(*arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(control_plane.kubectl), f"--kubeconfig={control_plane.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def installed(kubectl) -> None:
    """Install our CRDs and wait until they are served."""
    kubectl("apply", "--server-side", "-f", str(CRDS))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS))


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane, installed: None) -> Iterator[httpx.Client]:
    """Yield an HTTP client of the API server, with our CRDs installed."""
    config = json.loads(control_plane.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    with httpx.Client(base_url=cluster["server"], verify=_tls(cluster, user), trust_env=False, timeout=30) as client:
        yield client


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # ssl loads a certificate from files only
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
