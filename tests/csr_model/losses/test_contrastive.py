import math

import pytest
import torch

from csr_model.codes import Codes
from csr_model.losses import contrastive_loss


def naive(dense: torch.Tensor, labels: list[int], temperature: float) -> float:
    """The formula of the docstring, pair by pair."""
    unit = dense / dense.norm(dim=1, keepdim=True)
    losses = []
    for i, label in enumerate(labels):
        e = {j: math.exp(float(unit[i] @ unit[j]) / temperature) for j in range(len(labels)) if j != i}
        positives = sum(value for j, value in e.items() if labels[j] == label)
        if positives:
            losses.append(-math.log(positives / sum(e.values())))
    return sum(losses) / len(losses)


def test_known_value() -> None:
    """Frozen numbers: two equal codes of one label, one orthogonal of another, τ = 1/2: log(1 + e⁻²)."""
    codes = Codes(torch.tensor([[0], [0], [1]]), torch.tensor([[1.0], [3.0], [2.0]]))
    loss = contrastive_loss(codes, torch.tensor([0, 0, 1]), hidden_dim=2, temperature=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)))


def test_agrees_with_the_formula_written_out() -> None:
    """Self-similarity in the sum, or the sum outside the logarithm, would be another published loss."""
    random = torch.Generator().manual_seed(0)
    dense = torch.rand(9, 7, generator=random)
    labels = [0, 1, 2, 0, 1, 2, 0, 3, 3]
    weights, latents = dense.sort(dim=1, descending=True)
    loss = contrastive_loss(Codes(latents, weights), torch.tensor(labels), 7, temperature=0.1)
    assert loss.item() == pytest.approx(naive(dense, labels, 0.1), rel=1e-4)


def test_padding_does_not_reach_latent_0() -> None:
    """Padding carries latent 0 with weight 0; writing instead of adding would erase a real latent 0."""
    padded = Codes(torch.tensor([[0, 0], [0, 0], [1, 0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    loss = contrastive_loss(padded, torch.tensor([0, 0, 1]), 2, temperature=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_batch_without_pairs_is_finite(labels: list[int]) -> None:
    """A last odd batch without any positive pair must not put NaN into the weights."""
    weights = torch.rand(len(labels), 2, requires_grad=True)
    latents = torch.arange(2).expand(len(labels), 2)
    loss = contrastive_loss(Codes(latents, weights), torch.tensor(labels), 3, temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_empty_codes_are_finite() -> None:
    """Rows that activate nothing have no direction; they must not poison the batch."""
    weights = torch.tensor([[0.0], [0.0], [1.0]], requires_grad=True)
    loss = contrastive_loss(Codes(torch.zeros(3, 1, dtype=torch.long), weights), torch.tensor([0, 0, 1]), 2, 0.1)
    loss.backward()
    assert loss.isfinite()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()
