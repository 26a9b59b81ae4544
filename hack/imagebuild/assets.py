"""The models of the demo-assets image as a folder on this machine, for tests that run outside a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

from imagebuild import builder
from imagebuild.catalog import IMAGES
from localcluster.state import cache_root, locked


def unpack() -> Path:
    """Return a folder with one model in each subfolder, copied out of the image once for each content hash."""
    tag = builder.build(["demo-assets"])["demo-assets"]
    parent = cache_root() / "assets"
    target = parent / tag
    with locked(parent / ".lock"):
        if not target.exists():
            unfinished = parent / f"{tag}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            with builder.unpacked(IMAGES["demo-assets"]) as image:
                shutil.copytree(image / "assets/models", unfinished)
            for old in (folder for folder in parent.iterdir() if folder.is_dir() and folder != unfinished):
                shutil.rmtree(old)
            unfinished.rename(target)
    return target
