"""One operator as a process of its own, and what the kernel says that it took."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from faults.settled import free_port
from luthier.metrics import WRITE_VERBS
from waiting import until

_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS = 6.0
_QUIET_SHARE = 0.1
"""Of one core: an operator that has nothing to do renews its Lease and looks at its switch."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one start took until nothing was left to do, and what is left at rest."""

    seconds: float
    import_seconds: float
    """Processor time until it listens: imports and settings, the same for any fleet."""
    cpu_seconds: float
    """Processor time from then on."""
    imported_mib: float
    peak_mib: float
    resting_mib: float
    scraped_mib: float
    """At rest, after three scrapes of its metrics."""
    scrape_seconds: float
    """The longest of three."""
    passes: int
    writes: int


class Operator:
    """An operator that runs."""

    def __init__(self, process: subprocess.Popen[bytes], *, port: int, log: Path) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{port}"
        self._log = log
        self._began = time.monotonic()

    def measure(self, *, seconds: float) -> Start:
        """Wait until it rests, and tell what it took."""
        until(self._listens, "the operator listens", seconds=120)
        imported, imported_mib = self._cpu(), self.memory("VmRSS")
        until(lambda: b'"acting"' in self._log.read_bytes(), "the operator acts", seconds=seconds)
        self._wait_for_rest(seconds)
        took, cpu = time.monotonic() - self._began - _QUIET_SECONDS, self._cpu() - imported
        peak, resting = self.memory("VmHWM"), self.memory("VmRSS")
        scrapes = [self._scrape() for _ in range(3)]
        found = scrapes[-1][1]
        return Start(
            seconds=took,
            import_seconds=imported,
            cpu_seconds=cpu,
            imported_mib=imported_mib,
            peak_mib=peak,
            resting_mib=resting,
            scraped_mib=self.memory("VmRSS"),
            scrape_seconds=max(seconds for seconds, _ in scrapes),
            passes=int(sum(value for name, _, value in found if name == "luthier_reconciles_total")),
            writes=int(sum(value for name, labels, value in found if _is_write(name, labels))),
        )

    def memory(self, what: str) -> float:
        """Return a line of the kernel's account, in MiB."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found, what
        return int(found[1]) / 1024

    def _wait_for_rest(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            before = self._cpu()
            time.sleep(_QUIET_SECONDS)
            if self._cpu() - before < _QUIET_SHARE * _QUIET_SECONDS:
                return
            assert time.monotonic() < deadline, f"the operator does not come to rest: {self._log}"

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        with suppress(httpx.TransportError):
            return bool(httpx.get(f"{self._url}/healthz", timeout=5, trust_env=False).content)
        return False

    def _scrape(self) -> tuple[float, list[tuple[str, str, float]]]:
        began = time.monotonic()
        text = httpx.get(f"{self._url}/metrics", timeout=60, trust_env=False).text
        return time.monotonic() - began, list(_series(text))


@contextmanager
def running(*, kubeconfig: Path, namespace: str, log: Path, source: Path) -> Iterator[Operator]:
    """Run the operator of a checkout for as long as a block lasts.

    Args:
        kubeconfig: Where the API server is.
        namespace: The operator's own, and the one that it serves.
        log: What it says goes there.
        source: The checkout.
    """
    port = free_port()
    settings = {"namespace": namespace, "health_port": port, "health_host": "127.0.0.1", "prometheus_url": ""}
    folders = ("operator", "trainer_image", "server_image")
    environment = {
        **os.environ,
        **{f"LUTHIER_{name.upper()}": str(value) for name, value in settings.items()},
        "KUBECONFIG": str(kubeconfig),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(str(source / folder) for folder in folders),
    }
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "luthier", "run"], env=environment, stdout=file, stderr=file)
        try:
            yield Operator(process, port=port, log=log)
        finally:
            process.terminate()
            process.wait(30)


_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def _series(text: str) -> Iterator[tuple[str, str, float]]:
    for line in text.splitlines():
        if not line.startswith("#") and (found := _LINE.fullmatch(line)):
            yield found[1], found[2] or "", float(found[3])


def _is_write(name: str, labels: str) -> bool:
    is_ours = 'resource="leases"' not in labels and 'resource="events"' not in labels
    return name == "luthier_kube_requests_total" and is_ours and any(f'verb="{verb}"' in labels for verb in WRITE_VERBS)
