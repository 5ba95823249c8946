"""Cosines between codes, and which of them a contrast must not push apart."""

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_model.codes import Codes
from csr_model.collectives import gather_rows, rank, world_size

MASKED = -1e9
"""For logits: not −inf, as rows whose candidates are all masked must not turn gradients into NaN."""

_NORM_MIN = 1e-8


def gather_codes(codes: Codes[Tensor]) -> Codes[Tensor]:
    """Return all ranks' codes in order of rank, with gradient to the weights."""
    return Codes(gather_rows(codes.latents), gather_rows(codes.weights))


def cosines(left: Codes[Tensor], right: Codes[Tensor], hidden_dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return [n, m] cosines of codes [n, k] and [m, k]; a code without active latents has cosine 0.

    Gathers the rows of a [h, m] table at the left side's latents, which costs n·m·k instead of n·m·h:
    on a CPU 4 times faster than bfloat16 products of [n, h] and 10 times faster than float32 ones.

    Args:
        left: [n, k].
        right: [m, k].
        hidden_dim: h.
        dtype: To multiply in, if not the weights' own.
    """
    dtype = dtype or left.weights.dtype
    width = left.latents.shape[1]
    table = right.weights.new_zeros(hidden_dim, len(right.latents), dtype=dtype)
    table = table.scatter_add(0, right.latents.T, _unit(right.weights).T.to(dtype))
    offsets = torch.arange(0, left.latents.numel(), width, device=left.latents.device)
    weights = _unit(left.weights).to(dtype).reshape(-1)
    return F.embedding_bag(left.latents.reshape(-1), table, offsets, mode="sum", per_sample_weights=weights).to(
        left.weights.dtype
    )


def is_own(local_rows: int, device: torch.device) -> Tensor:
    """Return [n, n · ranks] bool: where a local row meets itself among all ranks' rows."""
    return own_positions(local_rows, device)[:, None] == torch.arange(local_rows * world_size(), device=device)


def own_positions(local_rows: int, device: torch.device) -> Tensor:
    """Return [n] int64: the places of this rank's rows among all ranks' rows."""
    return rank() * local_rows + torch.arange(local_rows, device=device)


def _unit(weights: Tensor) -> Tensor:
    return F.normalize(weights, dim=1, eps=_NORM_MIN)
