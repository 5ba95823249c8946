"""The arithmetic that makes scores the same on every machine."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.index.core import code
from services.index.core.errors import InvalidCode
from tests.services.index.core import oracle
from tests.services.index.core.data import Batch, batches


@given(batches(hidden_dim=300, width=64))
def test_stored_codes_are_the_defined_ones(batch: Batch) -> None:
    """A weight that is off by one, or an order that differs, would give other scores than other servers."""
    stored = code.quantise(batch.latents, batch.weights, hidden_dim=300, active_max=64)
    for row in range(len(batch.latents)):
        expected = oracle.stored_code(batch.latents[row], batch.weights[row])
        pairs = list(zip(stored.latents[row].tolist(), stored.weights[row].tolist(), strict=True))
        assert pairs == expected + [(0, 0)] * (len(pairs) - len(expected))


@given(batches(hidden_dim=50, width=16), st.integers(0, 200))
def test_padding_changes_nothing(batch: Batch, padding: int) -> None:
    """A document would score differently when it arrives in a wider batch."""
    narrow = code.quantise(batch.latents, batch.weights, hidden_dim=50, active_max=16)
    wide = code.quantise(
        np.pad(batch.latents, ((0, 0), (0, padding)), constant_values=-1),
        np.pad(batch.weights, ((0, 0), (0, padding))),
        hidden_dim=50,
        active_max=16,
    )
    for left, right in zip(code.with_width(narrow, 16), code.with_width(wide, 16), strict=True):
        np.testing.assert_array_equal(left, right)


@given(batches(hidden_dim=65_536, width=32))
def test_flat_arrays_hold_the_whole_code(batch: Batch) -> None:
    """What the log keeps would not be what the writer validated."""
    stored = code.with_width(code.quantise(batch.latents, batch.weights, hidden_dim=65_536, active_max=32), 32)
    again = code.from_ragged(*code.to_ragged(stored), hidden_dim=65_536, active_max=32)
    np.testing.assert_array_equal(again.latents, stored.latents)
    np.testing.assert_array_equal(again.weights, stored.weights)


@pytest.mark.parametrize(
    ("k_max", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (32, (1, 2, 4, 8, 16, 32)), (48, (1, 2, 4, 8, 16, 32, 48))],
)
def test_levels_are_powers_of_two_and_k_max(k_max: int, expected: tuple[int, ...]) -> None:
    """A k that Describe promises would be refused by search."""
    assert code.levels(k_max) == expected


def test_weights_keep_their_ratio_at_any_scale() -> None:
    """Models whose activations are very small or large would lose their codes."""
    weights = np.array([[4.0, 3.0]], np.float32)
    for scale in (1e-30, 1.0, 1e30):
        scaled = (weights * np.float32(scale)).astype(np.float32)
        stored = code.quantise(np.array([[1, 2]]), scaled, hidden_dim=4, active_max=2)
        assert stored.weights.tolist() == [[52428, 39321]]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("latents", "weights", "message"),
    [
        ([[0, 1]], [[1.0, NAN]], "weights of row 0 must be finite"),
        ([[0, 1]], [[INF, 1.0]], "weights of row 0 must be finite"),
        ([[0], [1]], [[1.0], [-0.5]], "weights of row 1 must not be negative"),
        ([[0, 1]], [[0.0, 1.0]], "weights of row 0 must not have a zero before a positive weight"),
        ([[0, 1]], [[0.5, 1.0]], "weights of row 0 must descend"),
        ([[0, 8]], [[1.0, 0.5]], r"latents of row 0 must lie in 0\.\.7"),
        ([[0, -1]], [[1.0, 0.5]], r"latents of row 0 must lie in 0\.\.7"),
        ([[3, 1, 3]], [[1.0, 0.5, 0.2]], "latents of row 0 must not repeat"),
        ([[0, 1, 2, 3, 4]], [[1.0] * 5], "latents of row 0 must be at most 4"),
        ([0, 1], [[1.0, 0.5]], r"latents must be integers \[n, k\]"),
        ([[0.0, 1.0]], [[1.0, 0.5]], r"latents must be integers \[n, k\], not float64"),
        ([[True, False]], [[1.0, 0.5]], r"latents must be integers \[n, k\], not bool"),
        ([[0, 1]], [[2, 1]], r"weights must be float32 \[1, 2\], not int64"),
        ([[0, 1]], [[1.0]], r"weights must be float32 \[1, 2\], not float64 \[1, 1\]"),
        ([[0]], [[1e300]], "weights of row 0 must be finite"),
    ],
)
def test_impossible_codes_are_refused(latents: Any, weights: Any, message: str) -> None:
    """A broken client would fill the index with codes that no model could have made."""
    with pytest.raises(InvalidCode, match=message):
        code.quantise(np.array(latents), np.array(weights), hidden_dim=8, active_max=4)


@pytest.mark.parametrize(
    ("lengths", "latents", "weights", "message"),
    [
        ([2], [1], [9], r"latents must be integers \[2\]"),
        ([1], [1], [9, 8], r"weights must be uint16 \[1\]"),
        ([1], [1.0], [9], r"latents must be integers \[1\]"),
        ([5], [0, 1, 2, 3, 4], [9, 8, 7, 6, 5], r"lengths must lie in 0\.\.4"),
        ([-1], [], [], r"lengths must lie in 0\.\.4"),
        ([1.0], [1], [9], r"lengths must be integers \[n\]"),
        ([2], [1, 2], [9, 0], "weights of row 0 must not be 0"),
        ([1, 2], [0, 1, 2], [9, 3, 4], "weights of row 1 must descend"),
        ([2], [1, 1], [9, 8], "latents of row 0 must not repeat"),
        ([1], [8], [9], r"latents of row 0 must lie in 0\.\.7"),
    ],
)
def test_impossible_stored_codes_are_refused(lengths: Any, latents: Any, weights: Any, message: str) -> None:
    """A corrupt log entry would be indexed and scored."""
    flat = np.array(latents) if latents else np.array([], np.int64)
    with pytest.raises(InvalidCode, match=message):
        code.from_ragged(np.array(lengths), flat, np.array(weights, np.uint16), hidden_dim=8, active_max=4)


def test_stored_weights_stay_as_they_are() -> None:
    """Codes from the log would be normalised a second time: other scores than on the server that wrote them."""
    stored = code.from_ragged([3, 0, 1], [5, 6, 3, 2], np.array([7, 4, 4, 1], np.uint16), hidden_dim=8, active_max=4)
    assert stored.latents.tolist() == [[5, 3, 6, 0], [0] * 4, [2, 0, 0, 0]]
    assert stored.weights.tolist() == [[7, 4, 4, 0], [0] * 4, [1, 0, 0, 0]]


def test_stored_weights_of_another_type_are_refused() -> None:
    """Floats read as ŵ would give every document a score near 0."""
    with pytest.raises(InvalidCode, match=r"weights must be uint16 \[1\], not float64"):
        code.from_ragged([1], [1], np.array([0.5]), hidden_dim=8, active_max=4)
