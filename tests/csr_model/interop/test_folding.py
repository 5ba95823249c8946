import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_model.autoencoder import CSRAutoencoder
from csr_model.errors import ExportRefused
from csr_model.interop.folding import fold, folded_difference
from tests.support.random_adapter import make_adapter, random_rows

HALF_ULP = 2.0**-24


def random_autoencoder(seed: int, spread: float, scale: float, mapped: bool) -> CSRAutoencoder:
    """Return an autoencoder [12, 7] whose mean and biases are `spread` times its embeddings."""
    random = torch.Generator().manual_seed(seed)
    model = CSRAutoencoder(7, 12, (2, 4, 8), normalize=False, mapped=mapped)
    with torch.no_grad():
        model.weight.normal_(generator=random)
        model.pre_bias.normal_(0, spread, generator=random)
        model.latent_bias.normal_(0, spread, generator=random)
        model.mean.normal_(0, spread, generator=random)
        model.scale.fill_(scale)
        if model.linear_map is not None:
            model.linear_map.normal_(generator=random)
    return model


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    spread=st.floats(0, 100),
    scale=st.floats(1e-4, 1e4),
    mapped=st.booleans(),
)
def test_folding_is_exact_up_to_one_rounding_of_each_weight(
    seed: int, spread: float, scale: float, mapped: bool
) -> None:
    """An export must encode like the adapter whatever preprocessing it was trained with."""
    model = random_autoencoder(seed, spread, scale, mapped)
    folded = [tensor.double() for tensor in fold(model)]
    weight, pre_bias, latent_bias = folded
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 7)))
    exact = model.double()
    expected = exact.pre_activations(exact.preprocess(rows)) / exact.scale
    got = (rows - pre_bias) @ weight.T + latent_bias
    # Half a unit in the last place of each stored number, carried through; doubled for float64's own rounding.
    magnitude = (rows.abs() + 2 * pre_bias.abs()) @ weight.abs().T + latent_bias.abs()
    assert bool(((got - expected).abs() <= 2 * HALF_ULP * magnitude + 1e-300).all())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_decoding_without_a_map_is_exact(seed: int, scale: float) -> None:
    """Who reconstructs embeddings from exported codes must get what the adapter restores."""
    model = random_autoencoder(seed, 0.3, scale, mapped=False)
    weight, pre_bias, latent_bias = fold(model)
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32))
    ours = model.encode(rows, 4)
    restored = (model.decode(ours) + model.pre_bias) / model.scale + model.mean
    theirs = torch.zeros(5, 12).scatter_add(1, ours.latents, ours.weights / model.scale)
    torch.testing.assert_close(theirs @ weight + pre_bias, restored, rtol=1e-4, atol=1e-4)
    assert latent_bias.dtype == torch.float32


def test_weights_beyond_float32_are_refused() -> None:
    """A degenerate scale must not become an export full of infinities."""
    model = random_autoencoder(0, 1e3, 1e-37, mapped=False)
    with pytest.raises(ExportRefused, match="scale is"):
        fold(model)


@pytest.mark.parametrize(("mapped", "normalize"), [(False, False), (True, False), (False, True), (True, True)])
def test_difference_is_that_of_the_codes(mapped: bool, normalize: bool) -> None:
    """The check before an export would let a wrong one pass, or refuse a right one."""
    adapter, rows = make_adapter(normalize, mapped), torch.from_numpy(random_rows(100))
    folded = fold(adapter.autoencoder)
    assert folded_difference(adapter.autoencoder, folded, rows, 8) < 1e-6
    moved = folded._replace(latent_bias=folded.latent_bias + 1e-3 * torch.arange(48))
    assert 1e-3 < folded_difference(adapter.autoencoder, moved, rows, 8) < 0.1
