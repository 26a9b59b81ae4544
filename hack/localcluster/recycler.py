"""Empty and free the volumes whose claims are gone, so that the next claim finds one.

A cluster with a cloud behind it makes volumes on demand. Ours has a fixed set of local ones, which Kubernetes leaves
`Released`, with the data, for somebody to judge. Here that is this loop: run as `python -m localcluster.recycler
KUBECONFIG FOLDER` beside each node.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from localcluster.api import Api

COUNT = 40
VOLUMES = "/api/v1/persistentvolumes"


def folder_of(volume: dict[str, Any], root: Path) -> Path:
    """Give a volume's folder; refuses one outside of `root`, since it is about to be emptied."""
    path = Path(volume["spec"]["local"]["path"])
    if path.parent != root:
        raise ValueError(f"volume {volume['metadata']['name']}: {path} is not directly in {root}")
    return path


def empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    folder.chmod(0o777)


def recycle(api: Api, root: Path) -> int:
    """Free every released volume of ours once; return how many."""
    listed = (volume for volume in api.get(VOLUMES)["items"] if "local" in volume["spec"])
    released = [volume for volume in listed if volume["status"].get("phase") == "Released"]
    for volume in released:
        empty(folder_of(volume, root))
        api.patch(f"{VOLUMES}/{volume['metadata']['name']}", {"spec": {"claimRef": None}})
    return len(released)


def main() -> None:
    api, root = Api(Path(sys.argv[1])), Path(sys.argv[2])
    while True:
        try:
            recycle(api, root)
        except (OSError, ValueError) as error:  # the API server is away, a file is held, a volume is not ours
            print(f"will try again: {error}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
