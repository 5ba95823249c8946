"""The one selection rule: the k largest pre-activations, then ReLU."""

import torch
from torch import Tensor

from csr_model.codes import Codes
from csr_model.config import LATENTS_MAX


def top_k(pre_activations: Tensor, k: int) -> Codes[Tensor]:
    """Return ReLU(TopK(a, k)) of each row, by weight descending, ties to the lowest latent.

    Selection and order depend on nothing but the row's values, unlike `torch.topk`, which leaves ties
    to the implementation. Every prefix of the result is the result for that smaller k.

    Args:
        pre_activations: [n, h] floating point, h ≤ 65,536; −inf excludes a latent.
        k: 1 … h.

    Returns:
        Latents int64 and weights [n, k]; gradients flow to the positive weights selected.
    """
    # Bits of positive floats order like the floats, above those of all others, so bits ‖ (last latent − latent)
    # is a distinct integer per latent that orders by weight, then by lowest latent, without a stable sort.
    bits = pre_activations.detach().float().contiguous().view(torch.int32).long()
    last = LATENTS_MAX - 1
    latent_order = last - torch.arange(bits.shape[1], device=bits.device)
    ranks = bits.bitwise_left_shift_(16).bitwise_or_(latent_order)  # in place: memory is what this costs
    latents = last - (ranks.topk(k, dim=1).values & last)
    weights = pre_activations.gather(1, latents).relu()
    return Codes(latents.masked_fill(weights <= 0, 0), weights)
