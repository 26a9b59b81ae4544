"""Start programs in the background and stop exactly those again.

A pid alone says little: it comes back for another process. So a record holds the pid, the start time and the boot, and
nothing is ever signalled whose start time differs.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import ClusterError

# A program's own /proc entry, written before it runs: a launcher that is killed right then leaves no unknown process.
_RECORD_AND_RUN = 'cat /proc/$$/stat /proc/sys/kernel/random/boot_id > "$0" && exec "$@"'


def started_at(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot; None for one that is gone or a zombie."""
    try:
        return _start_time(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_running_since(pid: int, started: str) -> bool:
    return started_at(pid) == started


def _start_time(stat: str) -> str | None:
    # The command's name may hold spaces and brackets: fields count from behind its last bracket.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, kw_only=True)
class Process:
    """A background program of a cluster, as its record file tells."""

    name: str
    pid: int
    started: str

    def is_alive(self) -> bool:
        return is_running_since(self.pid, self.started)

    def signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def memory_bytes(self) -> int:
        """Resident memory that is the process's own, shared file pages counted out."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def read_record(path: Path) -> Process | None:
    """Read a record; None where it is missing, torn, or of an earlier boot."""
    try:
        stat, boot = path.read_text().splitlines()
        if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
            return None
        return Process(name=path.name, pid=int(stat.split()[0]), started=_start_time(stat) or "")
    except (FileNotFoundError, ValueError, IndexError):
        return None


def records(directory: Path) -> list[Process]:
    found = (read_record(path) for path in sorted(directory.glob("*")))
    return [process for process in found if process]


def spawn(
    name: str, command: Sequence[str | Path], *, pids: Path, logs: Path, env: dict[str, str] | None = None
) -> Process:
    """Start a program that outlives us, with its output in `logs/NAME.log` and its record in `pids/NAME`."""
    pids.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    record = pids / name
    record.unlink(missing_ok=True)
    with (logs / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            ["sh", "-c", _RECORD_AND_RUN, record, *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", env=env,
        )  # fmt: skip
    _children[child.pid] = child
    wait_until(lambda: read_record(record) or child.poll() is not None, seconds=10, what=f"{name} to be started")
    process = read_record(record)
    if process is None:
        raise ClusterError(f"{name} did not start; see {logs / name}.log")
    return process


def run_patiently(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> int:
    """Run a program in the foreground and return its exit status.

    Ctrl-C reaches the program too, and it may have something to put away: it is waited for, not killed after a
    quarter of a second as `subprocess.run` does. A second Ctrl-C ends it.
    """
    child = subprocess.Popen([*map(str, command)], env=env, cwd=cwd)
    try:
        return child.wait()
    except KeyboardInterrupt:
        try:
            child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
        raise


# Kept so that a child that ended is reaped, and `is_alive` of its zombie turns False.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


def stop(processes: Sequence[Process], *, grace_seconds: float = 5.0) -> None:
    """Ask all to stop at once, and kill what is left after the grace."""
    for process in processes:
        process.signal(signal.SIGTERM)
    if not _all_gone(processes, grace_seconds):
        for process in processes:
            process.signal(signal.SIGKILL)
        if not _all_gone(processes, 10.0):
            alive = ", ".join(f"{process.name} ({process.pid})" for process in processes if process.is_alive())
            raise ClusterError(f"these processes do not end even when killed: {alive}")


def _all_gone(processes: Sequence[Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in processes:
            if process.pid in _children:
                _children[process.pid].poll()
        if not any(process.is_alive() for process in processes):
            return True
        time.sleep(0.02)
    return False


def wait_until(condition: Callable[[], object], *, seconds: float, what: str, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)


def wait_for_service(
    process: Process, condition: Callable[[], object], *, seconds: float, what: str, logs: Path
) -> None:
    """Wait for a program's condition, and give up at once, with its last words, when the program ends."""

    def met_or_ended() -> bool:
        return bool(condition()) or not process.is_alive()

    log = logs / f"{process.name}.log"
    try:
        wait_until(met_or_ended, seconds=seconds, what=what, every=0.05)
    except ClusterError as error:
        raise ClusterError(f"{error}; last lines of {log}:\n{last_lines(log)}") from None
    if not process.is_alive():
        raise ClusterError(f"{process.name} ended while starting; last lines of {log}:\n{last_lines(log)}")


def last_lines(log: Path, count: int = 8) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    {line[:300]}" for line in lines[-count:])
