"""Latents that many rows have are added up from lines with a weight for every row."""

import numpy as np
import pytest

from services.index.core.common import NONE, Common
from services.index.core.index import SparseIndex
from tests.services.index.core.data import codes


def common_latents(hidden_dim: int, k_max: int, count: int) -> tuple[SparseIndex, Common]:
    """Return an index of one segment, and what it holds of common latents."""
    batch = codes(np.random.default_rng(1), "skewed", count, hidden_dim, k_max)
    index = SparseIndex(hidden_dim, k_max)
    index.upsert([str(row) for row in range(count)], batch.latents, batch.weights)
    index.settle()
    return index, index.state.parts[0].segment.sealed.common


@pytest.mark.parametrize(("hidden_dim", "k_max"), [(16, 8), (64, 12), (4_096, 32)])
def test_lines_hold_the_weights_of_latents_that_a_quarter_of_the_rows_have(hidden_dim: int, k_max: int) -> None:
    """Hits would be missed where a line lacks a weight, and memory wasted on latents that few rows have."""
    index, common = common_latents(hidden_dim, k_max, 5_000)
    rows, units = index.state.parts[0].segment.rows, index.state.parts[0].segment.sealed.postings.units
    lines = 0
    for place, k in enumerate(index._levels):
        weights = np.zeros((len(rows), hidden_dim), np.int64)
        np.add.at(weights, (np.arange(len(rows))[:, None], rows.latents[:, :k]), rows.weights[:, :k])
        many = np.count_nonzero(weights, axis=0) * 4 > len(rows)
        np.testing.assert_array_equal(common.places[place] != NONE, many)
        np.testing.assert_array_equal(common.lines[common.places[place, many]].T, -(-weights // units)[:, many])
        assert np.count_nonzero(many) < 4 * k
        lines += np.count_nonzero(many)
    assert len(common.lines) == lines > 0
