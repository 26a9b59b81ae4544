"""What the demo-assets image does in the demo's pods. Standard library only.

Usage: assets.py load MODEL DEST           copy a model to DEST/models/MODEL and write the tickets to DEST/data
       assets.py client URL MODEL FILE ... send tickets through the gateway (client.py)
       assets.py reports FOLDER PORT       serve the artifacts' folder, read-only, for a browser
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
from pathlib import Path

import client
import tickets

MODELS = Path("/assets/models")
SIZES = {"smollm2": {"train": 84, "test": 144}, "tiny": {"train": 600, "test": 144}}


def load(model: str, destination: str) -> None:
    """Copy beside the target and rename, so that a killed copy is never taken for a model."""
    if model not in SIZES:
        sys.exit(f"assets: there is no model {model!r}; there are {', '.join(sorted(SIZES))}")
    target = Path(destination, "models", model)
    if target.exists():
        print(f"assets: {target} is there already")
    else:
        unfinished = target.with_name(f".{model}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(MODELS / model, unfinished)
        os.rename(unfinished, target)
        print(f"assets: {model} copied to {target}")
    tickets.write(Path(destination, "data"), seed=0, **SIZES[model])
    print(f"assets: tickets written to {destination}/data")


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
