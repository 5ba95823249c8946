"""Reference rows: what a machine encodes to see that it encodes like the one that trained."""

import torch
from torch import Tensor

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes

_ROWS = 16


def unambiguous_rows(autoencoder: CSRAutoencoder, rows: Tensor, k: int) -> Tensor:
    """Return the numbers of the 16 rows of [n, d] whose k-th and (k+1)-th weights lie furthest apart.

    Rounding on another machine then cannot change which latents their codes hold.
    """
    with torch.no_grad():
        weights = autoencoder.encode(rows, min(k + 1, autoencoder.hidden_dim)).weights
    gaps = weights[:, -2] - weights[:, -1] if weights.shape[1] > k else weights[:, -1]
    return gaps.topk(min(_ROWS, len(rows))).indices


def largest_difference(ours: Codes[Tensor], theirs: Codes[Tensor], hidden_dim: int) -> float:
    """Return the largest difference of a weight between codes of the same rows, whatever the order of latents."""
    return float((_dense(ours, hidden_dim) - _dense(theirs, hidden_dim)).abs().max())


def _dense(codes: Codes[Tensor], hidden_dim: int) -> Tensor:
    return torch.zeros(len(codes.latents), hidden_dim).scatter_add_(1, codes.latents.cpu(), codes.weights.cpu())
