import pytest
import torch

from csr_model.losses.reconstruction import reconstruction_loss, reconstruction_weights


def test_known_value() -> None:
    """Frozen numbers: the loss is the mean squared distance of each k, weighted, not its mean over dimensions."""
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    loss = reconstruction_loss(x, [torch.zeros_like(x), x - 1], [1.0, 0.125])
    assert loss.item() == pytest.approx(2.5 + 0.125 * 2)


def test_each_level_counts_once_and_its_fourfold_an_eighth() -> None:
    """L(k) + L(4k)/8, averaged over levels; a level that is also four times another gets both shares."""
    assert reconstruction_weights((8, 32), (8, 32, 128)) == pytest.approx([1 / 2, 1 / 2 + 1 / 16, 1 / 16])


def test_fourfold_is_clamped_to_the_last_decoded_k() -> None:
    """With 4k > h the 4k term must fall on h, not vanish or raise."""
    assert reconstruction_weights((4, 8), (4, 8, 16, 20)) == pytest.approx([1 / 2, 1 / 2, 1 / 16, 1 / 16])
    assert reconstruction_weights((4, 8), (4, 8)) == pytest.approx([1 / 2, 1 / 2 + 1 / 8])
