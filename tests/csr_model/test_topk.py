import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csr_model.topk import top_k


def naive_top_k(row: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Return latents and weights by sorting."""
    order = sorted(range(len(row)), key=lambda j: (-max(row[j], 0.0), j))[:k]
    return [j if row[j] > 0 else 0 for j in order], [max(float(row[j]), 0.0) for j in order]


rows = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=st.sampled_from([-2, -0.0, 0, 0.5, 1, 1.5])
)


@settings(max_examples=200, deadline=None)
@given(rows, st.data())
def test_agrees_with_sorting(values: np.ndarray, data: st.DataObject) -> None:
    """Equal weights would pick different latents on different machines, and codes would not compare."""
    k = data.draw(st.integers(1, values.shape[1]))
    codes = top_k(torch.from_numpy(values), k)
    for row, latents, weights in zip(values, codes.latents.tolist(), codes.weights.tolist(), strict=True):
        assert (latents, weights) == naive_top_k(row, k)


def test_known_row() -> None:
    """The order of a code is a stored contract: weight descending, ties to the lowest latent, zero padding."""
    codes = top_k(torch.tensor([[0.5, -3.0, 2.0, 0.5, -1.0]]), 4)
    assert codes.latents.tolist() == [[2, 0, 3, 0]]
    assert codes.weights.tolist() == [[2.0, 0.5, 0.5, 0.0]]


def test_prefix_is_the_smaller_k() -> None:
    """Adaptive k rests on it: cutting a stored code must give the code of that smaller k."""
    values = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    large, small = top_k(values, 12), top_k(values, 5)
    assert torch.equal(large.latents[:, :5], small.latents)
    assert torch.equal(large.weights[:, :5], small.weights)


def test_gradient_reaches_exactly_the_active_latents() -> None:
    """A gradient on unselected or negative pre-activations would train the wrong latents."""
    values = torch.tensor([[0.5, -3.0, 2.0, 0.1]], requires_grad=True)
    top_k(values, 2).weights.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_excluded_latents_never_appear(dtype: torch.dtype) -> None:
    """−inf masks live latents in the auxiliary loss; one slipping through would get a NaN weight."""
    codes = top_k(torch.tensor([[-torch.inf, 1.0, -torch.inf]], dtype=dtype), 3)
    assert codes.weights.tolist() == [[1.0, 0.0, 0.0]]
    assert codes.latents.tolist() == [[1, 0, 0]]


def test_last_of_65536_latents() -> None:
    """Latents are uint16: the largest adapter must reach its last one."""
    values = torch.zeros(1, 65_536)
    values[0, -1] = 3.0
    assert top_k(values, 1).latents.item() == 65_535
