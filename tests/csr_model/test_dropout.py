"""Dropout that ranks and resumed runs agree on."""

import numpy as np
import pytest

from csr_model.dropout import dropout_factors


@pytest.mark.parametrize("share", [0.1, 0.15, 0.5, 0.9])
def test_share_and_mean(share: float) -> None:
    """A wrong share would train on other data than the configuration says; a wrong mean would shift every code."""
    factors = dropout_factors(np.arange(2_000), 64, share, seed=3, step=7)
    assert abs((factors == 0).mean() - share) < 0.01
    assert abs(factors.mean() - 1) < 0.03
    assert factors.dtype == np.float32
    assert np.isin(factors, [0, np.float32(1 / (1 - share))]).all()


def test_values_are_dropped_apart_from_each_other() -> None:
    """Rows, columns and steps that drop alike would hide the same values for ever."""
    first, second = (dropout_factors(np.arange(500), 128, 0.5, seed=0, step=step) > 0 for step in (0, 1))
    assert abs((first == second).mean() - 0.5) < 0.02
    assert abs((first[:-1] == first[1:]).mean() - 0.5) < 0.02
    assert abs((first[:, :-1] == first[:, 1:]).mean() - 0.5) < 0.02


def test_a_row_drops_alike_on_any_rank() -> None:
    """Else two ranks would not take the step of one."""
    rows = np.array([9, 4, 700_000_000_000])
    whole = dropout_factors(rows, 16, 0.3, seed=1, step=5)
    np.testing.assert_array_equal(dropout_factors(rows[1:], 16, 0.3, seed=1, step=5), whole[1:])
