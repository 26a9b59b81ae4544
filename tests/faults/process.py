"""The operator as a process that is born quickly and dies by SIGKILL.

A server process imports the operator once and forks: a start then costs no import. What runs is `luthier run`.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from aiohttp import connector

from faults.clock import install, put_forward

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["luthier.__main__"])


class Operator:
    """One operator, started again and again under the same settings."""

    def __init__(
        self,
        *,
        kubeconfig: Path,
        namespace: str,
        log: Path,
        own_clock: bool = False,
        trusts: Path | None = None,
        **settings: object,
    ) -> None:
        known = {"namespace": namespace, "watch_namespaces": namespace, "health_port": 0, "leader_elect": False}
        known |= {"health_host": "127.0.0.1", "prometheus_url": "", "log_level": "INFO"}
        self._environment = {f"LUTHIER_{name.upper()}": str(value) for name, value in (known | settings).items()}
        self._environment |= {"KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self.log = log
        self._clock = log.with_suffix(".clock") if own_clock else None
        self._trusts = trusts
        """A certificate that the hooks' receiver has made itself."""
        self._process: multiprocessing.context.ForkServerProcess | None = None
        self._log_at = 0
        """How long the log was when the newest start began."""
        self.starts = 0

    def twin(self, *, kubeconfig: Path, log: Path) -> Operator:
        """Return another replica: the same settings, another way to the API server."""
        other = copy.copy(self)
        other._environment = {**self._environment, "KUBECONFIG": str(kubeconfig)}
        other.log, other._process, other._log_at, other.starts = log, None, 0, 0
        return other

    def start(self) -> None:
        self._log_at = self.log.stat().st_size if self.log.exists() else 0
        arguments = (self._environment, str(self.log), self._clock, self._trusts)
        self._process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        self.starts += 1

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def is_acting(self) -> bool:
        """Say whether it has listed everything and looks at each object: before that it lives, and writes nothing."""
        if not self.is_alive() or not self.log.exists():
            return False
        with open(self.log, "rb") as file:
            file.seek(self._log_at)
            return b'"acting"' in file.read()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL: nothing is put away."""
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def put_clock(self, seconds: float) -> None:
        """Let its wall clock be so many seconds ahead from now on; for one with a clock of its own."""
        assert self._clock is not None
        put_forward(self._clock, seconds)

    def stop(self) -> None:
        self.kill()
        if self._process is not None:
            self._process.join(10)


def _run(environment: dict[str, str], log: str, own_clock: Path | None, trusts: Path | None) -> None:
    with open(log, "ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment)
    from luthier.__main__ import main

    if own_clock is not None:
        install(own_clock)
    if trusts is not None:  # in a process of its own SSL_CERT_FILE says so; this one was forked after the import
        connector._SSL_CONTEXT_VERIFIED.load_verify_locations(trusts)

    sys.exit(main(["run"]))
