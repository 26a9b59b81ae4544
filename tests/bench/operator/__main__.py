"""`python -m bench.operator [--objects 200] [--pods 4]`: a control plane without a node, no root.

The fleet is made by the operator of this checkout and settled; then the operator starts anew among it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apiserver import Client, client, install_crds
from bench import machine
from bench.operator.fleet import NAMESPACE, Fleet
from bench.operator.process import Start, running
from localcluster import ControlPlane
from servingstage import install_routes

HERE = Path(__file__).resolve().parents[3]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__)
    parser.add_argument("--objects", type=int, default=200, help="ModelDeployments")
    parser.add_argument("--pods", type=int, default=4, help="pods of each")
    parser.add_argument("--starts", type=int, default=1, help="starts of each operator; the median is told")
    parser.add_argument(
        "--source", type=Path, action="append", help="a checkout whose operator starts too, for comparison"
    )
    arguments = parser.parse_args()
    fleet_of = f"{arguments.objects} ModelDeployments, {arguments.objects * arguments.pods} pods"
    with control_plane() as (kubeconfig, api), tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(api, objects=arguments.objects, pods=arguments.pods)
        say(f"makes {fleet_of}")
        fleet.make()
        log = Path(folder) / "operator.log"
        seconds = 300 + arguments.objects / 2
        with running(kubeconfig=kubeconfig, namespace=NAMESPACE, log=log, source=HERE) as operator:
            fleet.settle(say)
            operator.measure(seconds=seconds)  # it comes to rest: nothing is written half
        print(head(fleet_of))
        for source in [HERE, *(arguments.source or [])]:
            starts = []
            for _ in range(arguments.starts):
                say(f"starts the operator of {source}")
                with running(kubeconfig=kubeconfig, namespace=NAMESPACE, log=log, source=source) as operator:
                    starts.append(operator.measure(seconds=seconds))
            print(table(source, starts, arguments.objects), flush=True)
    return 0


def say(text: str) -> None:
    print(f"[bench] {text} ({machine.load()})", flush=True)


@contextmanager
def control_plane() -> Iterator[tuple[Path, Client]]:
    """Run an API server with our types and a gateway's."""
    with ControlPlane(f"bench-{os.getpid()}") as plane:
        install_crds(plane)
        with client(plane) as api:
            install_routes(api)
            yield plane.kubeconfig, api


def head(fleet_of: str) -> str:
    """Return what all numbers were measured on."""
    return (
        f"\n{machine.describe()}; {machine.load()}\nCPython {platform.python_version()}, Kubernetes 1.34\n{fleet_of}\n"
    )


def table(source: Path, starts: list[Start], objects: int) -> str:
    """Return the numbers of one operator's starts."""

    def median(name: str) -> float:
        return statistics.median(getattr(start, name) for start in starts)

    per_object = 1000 * median("cpu_seconds") / objects
    rows = {
        "start until at rest": f"{median('seconds'):.1f} s",
        "CPU per object": f"{per_object:.1f} ms, beside {median('import_seconds'):.1f} s of imports",
        "passes, writes": f"{median('passes'):.0f}, {median('writes'):.0f}",
        "memory after imports": f"{median('imported_mib'):.0f} MiB",
        "memory, peak": f"{median('peak_mib'):.0f} MiB",
        "memory at rest": f"{median('resting_mib'):.0f} MiB; after scrapes {median('scraped_mib'):.0f} MiB",
        "one scrape": f"{1000 * median('scrape_seconds'):.0f} ms",
    }
    lines = [f"{source} ({len(starts)} starts)", *(f"  {name:<22}{value}" for name, value in rows.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
