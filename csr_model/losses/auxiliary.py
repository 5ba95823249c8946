"""Revives dead latents: they explain what the code missed (Gao et al. 2024; Wen et al. 2025, eq. 5)."""

from collections.abc import Callable

import torch
from torch import Tensor

from csr_model.codes import Codes
from csr_model.collectives import sum_over_ranks, world_size
from csr_model.topk import top_k


def auxiliary_loss(
    pre_activations: Tensor,
    dead: Tensor,
    residual: Tensor,
    decode: Callable[[Codes[Tensor]], Tensor],
    k_aux: int,
) -> Tensor:
    """Return Σ‖e − Wᵀ z_aux‖² / Σ‖e‖², a scalar; 0 where no latent is dead.

    Live latents are masked by −inf, so that dead ones are selected even with negative pre-activations, which
    ReLU then silences: this loss moves only those that are positive. The residual is not centred on its batch
    mean (x' already is), which keeps single and constant rows finite. Its energy is summed over ranks.

    Args:
        pre_activations: a [n, h].
        dead: [h] bool.
        residual: e = x' − x̂ [n, d], the target; no gradient flows through it.
        decode: Codes → Wᵀ z, without bias.
        k_aux: Dead latents to use at most, ≥ 1.
    """
    residual = residual.detach()
    codes = top_k(pre_activations.masked_fill(~dead, -torch.inf), min(k_aux, pre_activations.shape[1]))
    missed = (residual - decode(codes)).square().sum()
    energy = sum_over_ranks(residual.square().sum()).clamp(min=torch.finfo(residual.dtype).tiny)
    return world_size() * missed / energy * dead.any()
