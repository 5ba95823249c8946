"""Encoding in memory bounded beyond input and output: rows are checked, converted and encoded chunk by chunk."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes, unit_length
from csr_model.embeddings import checked_rows, real_rows
from csr_model.errors import InvalidVector

Rows = np.ndarray[Any, Any] | Tensor

_VALUES_PER_CHUNK = 4_194_304


def encode_rows(
    autoencoder: CSRAutoencoder,
    rows: Rows,
    k: int,
    first_row: int = 0,
    dtype: torch.dtype = torch.int64,
    device: torch.device | None = None,
) -> Codes[Tensor]:
    """Return the unit-length codes of embeddings [n, d].

    Args:
        autoencoder: On any device.
        rows: Any real dtype, on any device.
        k: 1 … h.
        first_row: Number of the first row in messages.
        dtype: Of the latents.
        device: Of the codes; by default the autoencoder's.

    Raises:
        InvalidVector: As `checked_rows`.
    """
    rows = real_rows(rows, autoencoder.input_dim)
    device = autoencoder.weight.device if device is None else device
    latents = torch.empty(len(rows), k, dtype=dtype, device=device)
    weights = torch.empty(len(rows), k, dtype=torch.float32, device=device)
    with torch.no_grad():
        for start, chunk in _checked_chunks(autoencoder, rows, first_row):
            part = slice(start, start + len(chunk))
            latents[part], weights[part] = unit_length(autoencoder.encode(chunk, k))
    return Codes(latents, weights)


def reconstruction_nmse(autoencoder: CSRAutoencoder, rows: Rows, levels: tuple[int, ...]) -> dict[int, float]:
    """Return, for each level, Σ‖x' − x̂‖² / Σ‖x' − x̄'‖² over embeddings [n, d]: the share of variance that is missed.

    Args:
        autoencoder: On any device; its preprocessing makes x' of x.
        rows: Any real dtype, on any device; n ≥ 2.
        levels: Ascending.

    Raises:
        InvalidVector: As `checked_rows`, or all rows are alike: they have no variance.
    """
    rows = real_rows(rows, autoencoder.input_dim)
    device = autoencoder.weight.device
    errors = torch.zeros(len(levels), dtype=torch.float64, device=device)
    total, squares = torch.zeros(autoencoder.input_dim, dtype=torch.float64, device=device), 0.0
    with torch.no_grad():
        for _, chunk in _checked_chunks(autoencoder, rows):
            preprocessed = autoencoder.preprocess(chunk)
            restored = autoencoder.reconstruct(autoencoder.encode(chunk, levels[-1]), levels)
            errors += torch.stack([(preprocessed - level).square().sum() for level in restored])
            total += preprocessed.double().sum(0)
            squares += float(preprocessed.double().square().sum())
    variance = squares - float(total.square().sum()) / max(1, len(rows))
    if variance <= 1e-9 * squares:
        raise InvalidVector(f"the {len(rows)} embeddings are alike; an NMSE needs at least two that differ")
    return dict(zip(levels, (errors / variance).tolist(), strict=True))


def _checked_chunks(autoencoder: CSRAutoencoder, rows: Rows, first_row: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield, with their place, as many checked rows on the device as make 16 MiB of embeddings or pre-activations."""
    size = max(1, _VALUES_PER_CHUNK // max(autoencoder.hidden_dim, autoencoder.input_dim))
    for start in range(0, len(rows), size):
        chunk = checked_rows(rows[start : start + size], autoencoder.input_dim, first_row + start)
        yield start, chunk.to(autoencoder.weight.device)
