"""A real API server on loopback with our CRDs, for as long as the test session lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apiserver import Client, client, install_crds
from factories import make_modeldeployment
from faults.world import World, open_world
from localcluster import ControlPlane
from servingstage import Stage, install_routes, prometheus_of
from waiting import until


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
def installed(control_plane: ControlPlane) -> None:
    install_crds(control_plane)


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane, installed: None) -> Iterator[httpx.Client]:
    """Yield an HTTP client of the API server, with our CRDs installed."""
    with client(control_plane) as opened:
        yield opened


@pytest.fixture
def namespace(api: httpx.Client) -> Iterator[str]:
    """Yield the name of a new namespace, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    made = api.post("/api/v1/namespaces", json={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert made.status_code == 201, made.text
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path):
    """Return a function that starts `python -m luthier run` for the test's namespace; all are stopped afterwards.

    Keywords are settings: `operator(workers=2)` sets LUTHIER_WORKERS=2. The output goes to a file beside the test.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start(**settings: Any) -> subprocess.Popen[bytes]:
        known = {"namespace": namespace, "watch_namespaces": namespace, "health_port": 0, "prometheus_url": ""}
        variables = {f"LUTHIER_{name.upper()}": str(value) for name, value in (known | settings).items()}
        with (tmp_path / f"operator-{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "luthier", "run"],
                env={**os.environ, **variables, "KUBECONFIG": str(control_plane.kubeconfig), "NO_PROXY": "127.0.0.1"},
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(timeout=30) in (0, -signal.SIGKILL), "the operator did not stop cleanly"


@pytest.fixture(scope="session")
def routes(api: httpx.Client) -> None:
    """Install the route type."""
    install_routes(api)


@pytest.fixture
def world(api: Client, routes: None, namespace: str, tmp_path: Path) -> Iterator[World]:
    """Yield a namespace with a running operator, for one test."""
    with open_world(api, f"{namespace}-w", tmp_path) as opened:
        opened.operator.start()
        yield opened
        opened.operator.kill()
        assert "Traceback" not in opened.log()
        assert "InternalError" not in opened.log()


@pytest.fixture
def prometheus(stage: Stage) -> Iterator[str]:
    with prometheus_of(stage) as url:
        yield url


@pytest.fixture
def stage(api: httpx.Client, namespace: str, routes: None) -> Iterator[Stage]:
    stage = Stage(api, namespace)
    for claim in ("artifacts", "models"):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": spec}
        stage.create("persistentvolumeclaims", body)
    stage.start()
    yield stage
    stage.stop()


@pytest.fixture
def serving(stage: Stage, operator, prometheus: str) -> Stage:
    """Return the stage with a first revision that serves all traffic."""
    stage.operator = operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    stage.evaluation("eval-1", "sha256:" + "1" * 64)
    body = make_modeldeployment(
        namespace=stage.namespace,
        model={"fineTuneJob": None, "artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"},
        requireEvaluation={"name": "eval-1"},
        rollout={
            "steps": [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"pause": {}}],
            "abortScaleDownDelaySeconds": 0,
            "analysis": {"intervalSeconds": 1, "minSamples": 20, "metrics": [{"name": "ErrorRate"}]},
        },
    )
    stage.create("modeldeployments", {**body, "metadata": {"name": "support"}})
    until(lambda: stage.condition("Ready") == "True/Initial", "the first revision serves", seconds=60)
    assert stage.weights() == {"r1": 100}
    return stage
