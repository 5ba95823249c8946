"""Encoding in memory bounded beyond input and output."""

import torch
from torch import Tensor

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes, unit_length

_PRE_ACTIVATIONS_PER_CHUNK = 4_194_304


def encode_rows(autoencoder: CSRAutoencoder, rows: Tensor, k: int) -> Codes[Tensor]:
    """Return unit-length codes of checked rows [n, d], a chunk of pre-activations at a time."""
    device, size = autoencoder.weight.device, rows_per_chunk(autoencoder)
    latents = torch.empty(len(rows), k, dtype=torch.int64, device=device)
    weights = torch.empty(len(rows), k, dtype=torch.float32, device=device)
    with torch.no_grad():
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            latents[chunk], weights[chunk] = unit_length(autoencoder.encode(rows[chunk].to(device), k))
    return Codes(latents, weights)


def rows_per_chunk(autoencoder: CSRAutoencoder) -> int:
    """Return how many rows fill a chunk: 16 MiB of pre-activations, at least one row."""
    return max(1, _PRE_ACTIVATIONS_PER_CHUNK // autoencoder.hidden_dim)
