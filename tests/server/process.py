"""Starts a serving process on loopback, as a pod would: configuration in the environment, SIGTERM at the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from luthier_server.config import CONFIG_ENV, ServerConfig
from luthier_server.process import TERMINATION_LOG_ENV

ROOT = Path(__file__).parents[2]


class Serving:
    """One process. `log` is what it wrote; `result` its termination message."""

    def __init__(self, module: str, config: ServerConfig, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._termination = folder / "termination"
        self.url = f"http://127.0.0.1:{config.port}"
        paths = [ROOT / "server_image", ROOT / "trainer_image", ROOT / "tests"]
        env = {
            **os.environ,
            CONFIG_ENV: config.model_dump_json(),
            TERMINATION_LOG_ENV: str(self._termination),
            "PYTHONPATH": ":".join(map(str, paths)),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module], env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def result(self) -> dict:
        return json.loads(self._termination.read_text())

    def wait_ready(self, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.log[-3000:]}")
            if self._is_ready():
                return
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log[-3000:]}")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/luthier/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_end(self, *, seconds: float) -> int:
        return self.process.wait(timeout=seconds)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End whatever is left of the process and its children (its own session)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def counters(self) -> dict:
        return httpx.get(f"{self.url}/luthier/counters", timeout=10).json()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(condition, *, seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)
