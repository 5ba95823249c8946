from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_model.codes import Codes
from csr_model.losses.similarities import cosines, is_own
from csr_model.topk import top_k


def dense(codes: Codes[torch.Tensor], hidden_dim: int) -> torch.Tensor:
    """Return codes as rows [n, h]."""
    return codes.weights.new_zeros(len(codes.latents), hidden_dim).scatter_add(1, codes.latents, codes.weights)


def random_codes(rows: int, hidden_dim: int, k: int, seed: int) -> Codes[torch.Tensor]:
    """Return codes of random pre-activations in float64; some hold padding, some nothing at all."""
    random = torch.Generator().manual_seed(seed)
    return top_k(torch.randn(rows, hidden_dim, generator=random, dtype=torch.float64) - 0.7, k)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 20), st.integers(1, 20), st.data())
def test_sparse_cosines_are_the_dense_ones(n: int, m: int, hidden_dim: int, seed: int, data: st.DataObject) -> None:
    """Gathering is only for speed: values and gradients must be those of the plain product of unit rows."""
    left = random_codes(n, hidden_dim, data.draw(st.integers(1, hidden_dim)), seed)
    right = random_codes(m, hidden_dim, data.draw(st.integers(1, hidden_dim)), seed + 1)
    grads: list[list[Any]] = []
    products = []
    for sparse in (True, False):
        ours = Codes(left.latents, left.weights.clone().requires_grad_())
        theirs = Codes(right.latents, right.weights.clone().requires_grad_())
        if sparse:
            product = cosines(ours, theirs, hidden_dim)
        else:
            rows = [dense(codes, hidden_dim) for codes in (ours, theirs)]
            rows = [z / z.norm(dim=1, keepdim=True).clamp(min=1e-8) for z in rows]
            product = rows[0] @ rows[1].T
        (product * torch.arange(1, n * m + 1).view(n, m)).sum().backward()
        products.append(product.detach())
        grads.append([codes.weights.grad for codes in (ours, theirs)])
    torch.testing.assert_close(products[0], products[1], rtol=1e-12, atol=1e-12)
    for codes, mine, expected in zip((left, right), grads[0], grads[1], strict=True):
        positive = codes.weights > 0  # padding shares latent 0; ReLU stops its gradient
        torch.testing.assert_close(mine[positive], expected[positive], rtol=1e-9, atol=1e-9)


def test_padding_does_not_reach_latent_0() -> None:
    """Padding carries latent 0 with weight 0; writing instead of adding would erase a real latent 0."""
    padded = Codes(torch.tensor([[0, 0], [0, 0], [1, 0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]))
    assert cosines(padded, padded, 2).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_empty_codes_are_finite() -> None:
    """Rows that activate nothing have no direction; they must not poison the batch."""
    weights = torch.tensor([[0.0], [0.0], [1.0]], requires_grad=True)
    codes = Codes(torch.zeros(3, 1, dtype=torch.long), weights)
    found = cosines(codes, codes, 2)
    found.sum().backward()
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_lower_precision_stays_close(dtype: torch.dtype | None) -> None:
    """Mixed precision may cost a percent of a cosine, not its meaning; the result keeps the weights' dtype."""
    codes = Codes(*(part for part in random_codes(9, 30, 8, 3)))
    codes = Codes(codes.latents, codes.weights.float())
    unit = dense(codes, 30)
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-8)
    found = cosines(codes, codes, 30, dtype)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), (unit @ unit.T).numpy(), atol=1e-6 if dtype is None else 0.02)


def test_a_row_meets_itself_on_the_diagonal() -> None:
    """Alone, own places are the diagonal; on several ranks they move, see the tests of ranks."""
    assert is_own(3, torch.device("cpu")).tolist() == np.eye(3, dtype=bool).tolist()
