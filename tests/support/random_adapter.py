"""Adapters with random weights, and the comparison of their codes with those of other models."""

import numpy as np
import torch

from csr_model import CSRAdapter
from csr_model.adapter import adapter_of
from csr_model.autoencoder import CSRAutoencoder
from csr_model.config import decoded_ks

INPUT_DIM = 16


def random_rows(rows: int, input_dim: int = INPUT_DIM, seed: int = 5) -> np.ndarray:
    """Return embeddings [rows, input_dim] that are neither centred nor of unit length."""
    random = np.random.default_rng(seed)
    return (0.4 + random.normal(size=(rows, input_dim))).astype(np.float32)


def make_adapter(
    normalize: bool = False,
    mapped: bool = False,
    input_dim: int = INPUT_DIM,
    hidden_dim: int = 48,
    levels: tuple[int, ...] = (2, 4, 8),
) -> CSRAdapter:
    """Return an adapter none of whose weights and preprocessing is trivial."""
    random = torch.Generator().manual_seed(3)
    model = CSRAutoencoder(input_dim, hidden_dim, decoded_ks(levels, hidden_dim), normalize, mapped)
    with torch.no_grad():
        model.weight.normal_(0, input_dim**-0.5, generator=random)
        model.pre_bias.normal_(0, 0.05, generator=random)
        model.latent_bias.normal_(0, 0.05, generator=random)
        model.log_gain.normal_(0, 0.1, generator=random)
        model.mean.normal_(0, 0.1, generator=random)
        model.scale.fill_(1.7)
        if model.linear_map is not None:
            model.linear_map += 0.3 * torch.randn(input_dim, input_dim, generator=random) / input_dim**0.5
    sample = torch.from_numpy(random_rows(32, input_dim))
    return adapter_of(model, levels, sample, len(sample), training={}, data={})


def unit_codes(latents: np.ndarray, weights: np.ndarray, hidden_dim: int) -> np.ndarray:
    """Return codes as dense rows [n, hidden_dim]."""
    dense = np.zeros((len(latents), hidden_dim), np.float32)
    np.put_along_axis(dense, latents.astype(np.int64), weights, axis=1)
    padding = (weights == 0) & (latents == 0)  # padding may have overwritten the weight of latent 0
    first = np.where((latents == 0) & (weights > 0), weights, 0).max(axis=1)
    dense[:, 0] = np.where(padding.any(axis=1), first, dense[:, 0])
    return dense


def assert_same_codes(adapter: CSRAdapter, rows: np.ndarray, k: int, theirs: np.ndarray) -> None:
    """Compare the adapter's codes of `rows` with dense codes [n, h] of another model, outside ties."""
    wider = adapter.encode(rows, k + 1)
    clear = wider.weights[:, k - 1] - wider.weights[:, k] > 1e-5
    assert clear.mean() > 0.9, "too many ties to compare"
    ours = unit_codes(*adapter.encode(rows, k), adapter.hidden_dim)
    unit = theirs / np.linalg.norm(theirs, axis=1, keepdims=True).clip(min=1e-30)
    np.testing.assert_allclose(unit[clear], ours[clear], rtol=0, atol=1e-6)
    assert ((theirs > 0).sum(axis=1) <= k).all()
