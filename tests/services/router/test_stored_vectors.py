import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.index.core.code import quantise
from services.router.stored_vectors import unit_weights


@given(st.lists(st.floats(2.0**-20, 1.0, width=32), min_size=1, max_size=64), st.sampled_from([1e-20, 1.0, 1e20]))
def test_a_stored_code_as_a_query_is_itself(weights: list[float], scale: float) -> None:
    """A document searched by its id would score its exact duplicates below 1, and miss them at min_score=1."""
    given_weights = np.sort(np.array([weights], np.float32) * np.float32(scale))[:, ::-1]
    latents = np.arange(len(weights))[None]
    stored = quantise(latents, given_weights, hidden_dim=64, active_max=64).weights[0]
    stored = stored[stored > 0]
    again = unit_weights(stored).astype(np.float32)[None]
    requantised = quantise(latents[:, : len(stored)], again, hidden_dim=64, active_max=64).weights[0]
    np.testing.assert_array_equal(requantised, stored)


def test_an_empty_code_stays_empty() -> None:
    """A search by the id of a document without active latents would fail."""
    assert unit_weights(np.empty(0, np.uint16)).shape == (0,)
