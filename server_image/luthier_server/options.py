"""What vLLM is told: command line and environment, from our configuration. Pure, but for reading the CPU limit."""

from __future__ import annotations

import os
from pathlib import Path

from luthier_server.config import ServerConfig
from luthier_server.verify import Verified

_DTYPES = {"Auto": "auto", "Float32": "float32", "BFloat16": "bfloat16", "Float16": "float16"}
_BASE = "luthier-base"
"""The base's name inside the engine when no client may ask for it. The gate lets nobody name it."""
_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU flags (x86, x86, Arm) without which bfloat16 is emulated."""


def environment(config: ServerConfig, *, cpus: int) -> dict[str, str]:
    """Return variables to set where unset, before torch and vLLM are imported."""
    return {
        # Nothing is fetched and nothing is reported to anybody.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # The root file system is read-only.
        "XDG_CACHE_HOME": "/tmp/cache",
        "VLLM_CACHE_ROOT": "/tmp/cache/vllm",
        "VLLM_CONFIG_ROOT": "/tmp/config/vllm",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/inductor",
        # Threads beyond the container's CPUs wait for each other at every operation.
        "OMP_NUM_THREADS": str(cpus),
        # Read on CPU only. Binding to cores would pick the same ones in every pod of a node.
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


def arguments(config: ServerConfig, verified: Verified, *, is_cpu: bool, cpu_flags: frozenset[str]) -> list[str]:
    """Return vLLM's command line."""
    only_base = verified.adapter is None
    base_names = [config.served_model_name] if only_base else []
    base_names += [config.base_model_name] if config.base_model_name is not None else []
    options = {
        "--model": str(verified.base),
        "--load-format": "safetensors",
        "--generation-config": str(verified.generation_config),
        "--dtype": _dtype(config, is_cpu=is_cpu, cpu_flags=cpu_flags),
        "--max-model-len": str(config.max_model_len),
        "--max-num-seqs": str(config.max_num_seqs),
    }
    if verified.chat_template is not None:
        options["--chat-template"] = str(verified.chat_template)
    if is_cpu:
        # The worker inside the engine's process: one process and 0.6 GB less.
        options["--distributed-executor-backend"] = "uni"
    switches = ["--disable-fastapi-docs", "--no-trust-remote-code"]
    # Compiling on CPU takes minutes at each start and a C++ compiler in the image.
    switches += ["--enforce-eager"] if is_cpu or config.enforce_eager else []
    return [
        *(word for pair in options.items() for word in pair),
        *switches,
        "--served-model-name",
        *(base_names or [_BASE]),
        *_lora_arguments(config, verified),
    ]


def _lora_arguments(config: ServerConfig, verified: Verified) -> list[str]:
    if verified.adapter is None:
        return []
    rank = str(verified.lora_rank)
    module = f"{config.served_model_name}={verified.adapter}"
    return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", rank, "--lora-modules", module]


def _dtype(config: ServerConfig, *, is_cpu: bool, cpu_flags: frozenset[str]) -> str:
    if config.dtype == "Auto" and is_cpu and not cpu_flags & _FAST_BF16:
        return "float32"
    return _DTYPES[config.dtype]


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the instruction sets named in the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return frozenset(next((value for key, _, value in lines if key.strip() in ("flags", "Features")), "").split())


def whole_cpus(cpu_max: str, *, available: int) -> int:
    """Return the whole CPUs that a cgroup's `cpu.max` allows; at least one."""
    quota, _, period = cpu_max.partition(" ")
    if not quota.isdigit():
        return available
    return max(1, min(available, int(quota) // int(period)))


def available_cpus() -> int:
    """Return the whole CPUs of this container."""
    path = Path("/sys/fs/cgroup/cpu.max")
    return whole_cpus(path.read_text() if path.is_file() else "max", available=len(os.sched_getaffinity(0)))
