"""Where the arrays of a segment lie."""

import numpy as np

from services.index.core.index import SparseIndex
from tests.services.index.core.data import codes


def test_arrays_that_grow_with_a_segment_are_made_by_numpy() -> None:
    """Dropping a merged segment would stop every thread of the server for tens of milliseconds."""
    index = SparseIndex(512, 8)
    batch = codes(np.random.default_rng(0), "uniform", 5_000, 512, 8)
    index.upsert([str(row) for row in range(5_000)], batch.latents, batch.weights)
    derived = index.state.parts[0].segment.derived()
    # What compiled code made refers to numba's memory; what numpy made has its own.
    assert {name for name, array in derived.items() if not array.flags.owndata} == {"posting-units"}
