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
    weights = pre_activations.relu()
    # Bits of non-negative floats order like the floats, so bits ‖ (last latent − latent) is a distinct
    # integer per latent that orders by weight, then by lowest latent, without a stable sort.
    bits = weights.detach().float().contiguous().view(torch.int32).long()
    last = LATENTS_MAX - 1
    rank = (bits << 16) | (last - torch.arange(weights.shape[1], device=weights.device))
    latents = last - (rank.topk(k, dim=1).values & last)
    selected = weights.gather(1, latents)
    return Codes(latents.masked_fill(selected <= 0, 0), selected)
