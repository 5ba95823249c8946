import numpy as np

from csr_model.validation import held_out


def test_known_ids() -> None:
    """Frozen: another split on another machine or release would let a model be judged on what it learned from."""
    assert np.flatnonzero(held_out([str(row) for row in range(40)])).tolist() == [0, 7, 9, 10, 33]


def test_about_a_tenth_whatever_the_ids() -> None:
    """Too few held-out rows decide nothing; too many are missing in training."""
    for pattern in ("{}", "page-{}", "https://example.org/{}"):
        assert 0.08 < held_out([pattern.format(row) for row in range(5000)]).mean() < 0.12


def test_an_id_decides_alone() -> None:
    """Rows added later, or another order, must not move what was held out before."""
    ids = [f"page-{row}" for row in range(300)]
    mask = held_out(ids)
    assert held_out(ids[::-1]).tolist() == mask.tolist()[::-1]
    assert held_out(ids[:100]).tolist() == mask[:100].tolist()
    assert held_out([]).shape == (0,)
    assert mask.dtype == np.bool_
