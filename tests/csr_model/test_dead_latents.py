import torch

from csr_model.codes import Codes
from csr_model.dead_latents import DeadLatents


def codes(latents: list[list[int]], weights: list[list[float]]) -> Codes[torch.Tensor]:
    """Return codes of literal rows."""
    return Codes(torch.tensor(latents), torch.tensor(weights))


def test_counts_rows_since_the_last_firing() -> None:
    """The threshold is in rows: a larger batch must not make latents live longer."""
    counter = DeadLatents(3, dead_after_rows=3)
    counter.advance(codes([[1], [1]], [[1.0], [0.5]]))
    assert counter.rows_since_fired.tolist() == [2, 0, 2]
    counter.advance(codes([[2], [2]], [[1.0], [1.0]]))
    assert counter.rows_since_fired.tolist() == [4, 2, 0]
    mask = counter.mask()
    assert mask is not None
    assert mask.tolist() == [True, False, False]
    assert counter.share().item() == torch.tensor(1 / 3).item()


def test_padding_is_not_firing() -> None:
    """Padding names latent 0 with weight 0; counting it would keep latent 0 alive for ever."""
    counter = DeadLatents(2, dead_after_rows=1)
    counter.advance(codes([[1, 0], [1, 0]], [[1.0, 0.0], [1.0, 0.0]]))
    assert counter.rows_since_fired.tolist() == [2, 0]


def test_none_while_no_latent_is_dead() -> None:
    """The auxiliary loss is skipped on None; a mask without a dead latent would cost a quarter of each step."""
    counter = DeadLatents(2, dead_after_rows=1)
    assert counter.mask() is None
    counter.advance(codes([[0, 1]] * 2, [[1.0, 1.0]] * 2))
    assert counter.mask() is None


def test_state_round_trip() -> None:
    """A resumed run must go on counting, not start with all latents alive."""
    counter = DeadLatents(2, dead_after_rows=1)
    counter.advance(codes([[1], [1]], [[1.0], [1.0]]))
    other = DeadLatents(2, dead_after_rows=1)
    other.load_state_dict(counter.state_dict())
    mask = other.mask()
    assert mask is not None
    assert mask.tolist() == [True, False]
    other.advance(codes([[0]], [[1.0]]))
    assert counter.rows_since_fired.tolist() == [2, 0]
