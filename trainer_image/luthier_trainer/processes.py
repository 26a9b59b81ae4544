"""What the processes of one attempt agree on; with one process, each call is a plain local one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def join(device: torch.device, *, use_deepspeed: bool) -> None:
    """Make the processes known to DeepSpeed too, before it shards a model while loading: it would see only itself.

    That the caller has a device means that torch's processes have joined (accelerate does it then).
    """
    if use_deepspeed:
        import deepspeed  # heavy, and absent where nobody asked for it

        backend = "nccl" if device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def any_of(flags: list[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether any process has raised it; all processes must call this."""
    if not dist.is_initialized():
        return flags
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def sum_of(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def gather(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
