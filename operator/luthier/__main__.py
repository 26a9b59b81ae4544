"""`python -m luthier run` is the operator; `python -m luthier crds` prints the CRDs."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys

import uvloop
from pydantic import ValidationError

from luthier import __version__, app, crd, logs
from luthier.api.kinds import KINDS
from luthier.controllers import all_controllers
from luthier.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="luthier", description="Fine-tune, evaluate and roll out language models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="be the operator; settings come from LUTHIER_* variables")
    commands.add_parser("crds", help="print the CustomResourceDefinitions as YAML")
    command = parser.parse_args(arguments).command
    return _print_crds() if command == "crds" else _run()


def _print_crds() -> int:
    print("---\n".join(crd.to_yaml(crd.custom_resource_definition(kind)) for kind in KINDS), end="")
    return 0


def _run() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"luthier: wrong settings (variables LUTHIER_*): {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    gc.freeze()  # what the imports made stays: looking through it again and again took a fifth of a start
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_operate(settings))
    return 0


async def _operate(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await app.run(settings, all_controllers(), stop)


if __name__ == "__main__":
    sys.exit(main())
