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
from faults.crash import Score, compare, enumerate_crashes, run
from faults.lives import LIVES
from faults.rules import Rule
from localcluster import ControlPlane
from servingstage import install_routes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--lives", nargs="*", default=list(LIVES), choices=list(LIVES), metavar="LIFE")
    parser.add_argument("--sample", type=int, help="only so many crash points, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4, help="runs at the same time")
    parser.add_argument("--life", choices=list(LIVES), metavar="LIFE", help="run this one, under --rule")
    parser.add_argument("--rule", type=lambda text: Rule(**json.loads(text)))
    arguments = parser.parse_args()
    with opened() as (api, folder):
        if arguments.life:
            return show_one(api, folder, arguments.life, arguments.rule)
        score = enumerate_crashes(
            api,
            folder,
            lives=arguments.lives,
            workers=arguments.workers,
            sample=arguments.sample,
            seed=arguments.seed,
            tell=lambda text: print(text, flush=True),
        )
    print(scorecard(score))
    return 1 if score.wrong else 0


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


def scorecard(score: Score) -> str:
    rows = [f"  {life:32} {count:4} crash points" for life, count in score.by_life.items()]
    rows += [f"  {'all':32} {score.points:4} crash points, {len(score.wrong)} wrong ends, {score.seconds:.0f} s"]
    if score.unreached:
        rows.append(f"  {score.unreached} points were not reached: the run made fewer writes")
    return "\n".join(["", "Scorecard", *rows])
