"""Agreement between ranks; without a process group each function is the identity.

Gradients are right under DistributedDataParallel, which averages them over ranks: what a rank returns
as its loss must average to the loss of the whole batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks that train together."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Return this process's place among them, from 0."""
    return dist.get_rank() if _grouped() else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise sum over ranks, without gradient."""
    values = values.detach().clone()
    if _grouped():
        dist.all_reduce(values)
    return values


def from_first_rank(value: float, device: torch.device | str) -> float:
    """Return the first rank's value, so that all ranks decide alike; it travels by way of `device`."""
    shared = torch.tensor([value if rank() == 0 else 0.0], dtype=torch.float64, device=device)
    return float(sum_over_ranks(shared))


def gather_rows(rows: Tensor) -> Tensor:
    """Return all ranks' rows in order of rank, with gradient; each rank must hold equally many."""
    if not _grouped():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        # Every rank's loss depends on this rank's rows: the gradient is the sum over ranks.
        gradient: Tensor = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
