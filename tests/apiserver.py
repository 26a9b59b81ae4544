"""A client of a real API server, and our types in it."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from localcluster import ControlPlane

CRDS = Path(__file__).resolve().parents[1] / "crds"


class Client(httpx.Client):
    """An HTTP client with the administrator's certificate."""

    tls: ssl.SSLContext


@contextmanager
def client(control_plane: ControlPlane) -> Iterator[Client]:
    """Open a client of a control plane."""
    config = json.loads(control_plane.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = tls_of(cluster, user)
    limits = httpx.Limits(max_connections=200)
    with Client(base_url=cluster["server"], verify=tls, trust_env=False, timeout=30, limits=limits) as opened:
        opened.tls = tls
        yield opened


def install_crds(control_plane: ControlPlane) -> None:
    """Install our types and wait until they are served."""
    command = [str(control_plane.kubectl), f"--kubeconfig={control_plane.kubeconfig}"]
    for words in (
        ("apply", "--server-side", "-f", str(CRDS)),
        ("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS)),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr


def tls_of(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # ssl loads a certificate from files only
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
