import pytest
import torch

from csr_model.codes import Codes
from csr_model.losses.auxiliary import auxiliary_loss


def decode_identity(codes: Codes[torch.Tensor]) -> torch.Tensor:
    """Decode with W = identity of two latents."""
    return torch.zeros(len(codes.latents), 2).scatter_add(1, codes.latents, codes.weights)


def test_known_value() -> None:
    """Frozen numbers: latent 1 is dead, explains row 1 with 3 where 2 was missed, and cannot explain row 0."""
    a = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    residual = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    loss = auxiliary_loss(a, torch.tensor([False, True]), residual, decode_identity, k_aux=2)
    assert loss.item() == pytest.approx((1 + 1) / 5)


def test_only_dead_latents_learn() -> None:
    """Live latents must be left to the reconstruction; the auxiliary loss revives the dead ones."""
    a = torch.tensor([[5.0, 1.0], [2.0, 3.0]], requires_grad=True)
    residual = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    auxiliary_loss(a, torch.tensor([False, True]), residual, decode_identity, k_aux=1).backward()
    assert a.grad is not None
    assert a.grad[:, 0].tolist() == [0.0, 0.0]
    assert (a.grad[:, 1] != 0).all()
    assert residual.grad is None


def test_dead_latent_wins_over_live_ones_below_zero() -> None:
    """The published code multiplies live pre-activations by 0, so that 0 beats a negative dead one; −inf does not."""
    a = torch.tensor([[9.0, 0.001]])
    residual = torch.tensor([[0.0, 1.0]])
    loss = auxiliary_loss(a, torch.tensor([False, True]), residual, decode_identity, k_aux=1)
    assert loss.item() == pytest.approx(0.999**2, rel=1e-5)


def test_nothing_dead_costs_nothing() -> None:
    """A constant added when no latent is dead would make losses of two runs incomparable."""
    a = torch.randn(3, 2, requires_grad=True)
    loss = auxiliary_loss(a, torch.tensor([False, False]), torch.randn(3, 2), decode_identity, k_aux=2)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None
    assert a.grad.abs().sum() == 0


def test_perfect_reconstruction_stays_finite() -> None:
    """A residual of zero must not divide by zero."""
    a = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = auxiliary_loss(a, torch.tensor([False, True]), torch.zeros(1, 2), decode_identity, k_aux=1)
    loss.backward()
    assert loss.item() == 0
