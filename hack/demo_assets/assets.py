"""What the demo-assets image does in the demo's pods. Standard library only.

Usage: assets.py load MODEL DEST           copy a model to DEST/models/MODEL and write the tickets to DEST/data
       assets.py client URL MODEL FILE ... send tickets through the gateway (client.py)
       assets.py reports FOLDER PORT       serve the artifacts' folder, read-only, for a browser
"""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
from pathlib import Path

import client
import tickets

MODELS = Path("/assets/models")
SIZES = {"smollm2": {"train": 84, "test": 144}, "tiny": {"train": 600, "test": 144}}


def load(model: str, destination: str) -> None:
    if model not in SIZES:
        sys.exit(f"assets: there is no model {model!r}; there are {', '.join(sorted(SIZES))}")
    copy_model(model, Path(destination))
    write_data(model, Path(destination))


def copy_model(model: str, destination: Path) -> None:
    """Copy beside the target and rename, so that a killed copy is never taken for a model."""
    target = destination / "models" / model
    if target.exists():
        print(f"assets: {target} is there already")
        return
    unfinished = target.with_name(f".{model}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(MODELS / model, unfinished)
    unfinished.rename(target)
    print(f"assets: {model} copied to {target}")


def write_data(model: str, destination: Path) -> None:
    """Replace file by file: clients of an earlier run may be reading."""
    data, unfinished = destination / "data", destination / ".data.unfinished"
    tickets.write(unfinished, seed=0, **SIZES[model])
    data.mkdir(exist_ok=True)
    for file in unfinished.iterdir():
        file.replace(data / file.name)
    unfinished.rmdir()
    print(f"assets: tickets written to {data}")


def reports(folder: str, port: str) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    print(f"assets: serving {folder} on port {port}")
    http.server.ThreadingHTTPServer(("", int(port)), handler).serve_forever()


def main() -> None:
    commands = {"load": load, "reports": reports}
    match sys.argv[1:]:
        case ["client", *rest]:
            sys.argv[1:] = rest
            client.main()
        case [name, *rest] if name in commands and len(rest) == 2:
            commands[name](*rest)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
