"""What `python -m faults` does."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from apiserver import client, install_crds
from faults.crash import compare, enumerate_crashes, run
from faults.lives import LIVES
from faults.rows import shown_by
from faults.rules import Rule
from faults.scorecard import judge_rows, missed, render, run_rows
from localcluster import ControlPlane
from servingstage import install_routes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--lives", nargs="*", choices=list(LIVES), metavar="LIFE", help="crash points of these alone")
    parser.add_argument("--sample", type=int, help="so many crash points alone, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4, help="runs at the same time")
    parser.add_argument("--life", choices=list(LIVES), metavar="LIFE", help="run this one, under --rule")
    parser.add_argument("--rule", type=lambda text: Rule(**json.loads(text)))
    parser.add_argument(
        "--rows", action="store_true", help="the table of faults too, where --lives or --sample leave it"
    )
    arguments = parser.parse_args()
    with opened() as (api, folder):
        if arguments.life:
            return show_one(api, folder, arguments.life, arguments.rule)
        score = enumerate_crashes(
            api,
            folder,
            lives=arguments.lives or tuple(LIVES),
            workers=arguments.workers,
            sample=arguments.sample,
            seed=arguments.seed,
            tell=lambda text: print(text, flush=True),
        )
    is_whole = arguments.lives is None and arguments.sample is None
    cases = run_rows(folder) if is_whole or arguments.rows else None
    verdict = judge_rows(cases, shown_by()) if cases is not None else None
    print(render(score, verdict, cases or []))
    failed = missed(score, verdict, cases or [])
    print("\n".join(["", *(f"MISSED: {one}" for one in failed)]) if failed else "\nall bars are met")
    return 1 if failed else 0


@contextmanager
def opened() -> Iterator[tuple[httpx.Client, Path]]:
    """Start a control plane with our types."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-faults-"))
    print(f"operators' logs are in {folder}", flush=True)
    with ControlPlane(f"faults-{os.getpid()}") as running, client(running) as api:
        install_crds(running)
        install_routes(api)
        yield api, folder


def show_one(api: httpx.Client, folder: Path, life: str, rule: Rule | None) -> int:
    undisturbed = run(api, LIVES[life], folder)
    for number, write in enumerate(undisturbed.writes, start=1):
        print(f"{number:3} {write}")
    done = run(api, LIVES[life], folder, *([rule] if rule else []))
    problems = compare(undisturbed, done)
    print(json.dumps(done.state, indent=1))
    print("\n".join(problems) or "the same end")
    return 1 if problems else 0
