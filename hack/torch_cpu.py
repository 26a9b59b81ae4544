"""Let PyPI's torch run without NVIDIA's libraries, so that CPU images carry 1.2 GB of it instead of 4.7 GB.

PyPI has one torch wheel for x86-64 Linux and it is the CUDA build: it will not load without cuBLAS, cuDNN, NCCL and
the rest, 3.5 GB that a machine without a GPU never calls. This script writes libraries of a few kilobytes with the same
names and the C functions torch asks them for. A stand-in never returns: it names itself on stderr and aborts, so a
call that should not happen is seen and not guessed at. The CUDA runtime, CUPTI and cuFile stay the real ones (8 MB):
`torch.cuda.is_available()` is answered by NVIDIA's own code, which finds no driver.

Needs `as`, `ld` and `nm` (binutils); run once, while an image is built: python torch_cpu.py
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# soname -> (functions it answers for, version of those symbols or "" for none)
STAND_INS = {
    "libcublas.so.13": (r"cublas(?!Lt)", "libcublas.so.13"),
    "libcublasLt.so.13": (r"cublasLt", "libcublasLt.so.13"),
    "libcudnn.so.9": (r"cudnn", "libcudnn.so.9"),
    "libcufft.so.12": (r"cufft", "libcufft.so.12"),
    "libcurand.so.10": (r"curand", ""),
    "libcusolver.so.12": (r"cusolver", "libcusolver.so.12"),
    "libcusparse.so.12": (r"cusparse(?!Lt)", "libcusparse.so.12"),
    "libcusparseLt.so.0": (r"cusparseLt", ""),
    "libnccl.so.2": (r"nccl[A-Z]", ""),
    "libnvrtc.so.13": (r"nvrtc", "libnvrtc.so.13"),
    "libnvshmem_host.so.3": (r"nvshmem", "NVSHMEM"),
}

PRELUDE = """
    .text
no_cuda:
    andq $-16, %rsp
    call perror@PLT
    call abort@PLT
"""
FUNCTION = """
    .globl {name}
    .type {name}, @function
{name}:
    leaq text_{index}(%rip), %rdi
    jmp no_cuda
    .section .rodata
text_{index}: .string "this image has no CUDA libraries, yet something called {name}"
    .text
"""
POSTLUDE = '\n    .section .note.GNU-stack, "", @progbits\n'

SMOKE_TEST = """
import torch, torch.distributed
assert not torch.cuda.is_available()
layer = torch.nn.Linear(8, 8)
layer(torch.ones(2, 8)).sum().backward()
assert torch.isfinite(layer.weight.grad).all()
"""


def main() -> None:
    lib = torch_libraries()
    wanted = {symbol for library in sorted(lib.glob("libtorch*.so")) for symbol in undefined_symbols(library)}
    for soname, (pattern, version) in STAND_INS.items():
        write_stand_in(lib / soname, sorted(s for s in wanted if re.match(pattern, s)), version)
    subprocess.run([sys.executable, "-c", SMOKE_TEST], check=True)
    print(f"torch_cpu: {len(STAND_INS)} libraries stood in for")


def torch_libraries() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("torch_cpu: torch is not installed for this Python; install requirements/torch.txt first")
    return Path(spec.submodule_search_locations[0]) / "lib"


def undefined_symbols(library: Path) -> set[str]:
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True)
    return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}


def write_stand_in(path: Path, functions: list[str], version: str) -> None:
    assembly = PRELUDE + "".join(FUNCTION.format(name=f, index=i) for i, f in enumerate(functions)) + POSTLUDE
    with tempfile.TemporaryDirectory() as folder:
        source, binary, versions = (Path(folder) / name for name in ("stand_in.s", "stand_in.o", "stand_in.map"))
        source.write_text(assembly)
        versions.write_text(f"{version} {{ global: *; local: no_cuda; }};\n")
        subprocess.run(["as", "-o", binary, source], check=True)
        link = ["ld", "-shared", "-soname", path.name, "--version-script", versions, "-o", path, binary]
        subprocess.run(link, check=True)


if __name__ == "__main__":
    main()
