"""A search that fails half-way leaves nothing behind."""

from typing import Any

import numpy as np
import pytest

from services.index.core import planner
from services.index.core.index import SparseIndex
from tests.services.index.core.data import codes


def test_a_search_out_of_memory_does_not_falsify_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the failed query would be added to those of every later one on that thread."""
    batch = codes(np.random.default_rng(0), "uniform", 300, 64, 8)
    index = SparseIndex(64, 8)
    index.upsert([f"{row:03d}" for row in range(300)], batch.latents, batch.weights)
    query = {"latents": batch.latents[:1], "weights": batch.weights[:1], "top_n": 20}
    before = index.search(**query)

    def out_of_memory(documents: Any, latents: Any, weights: Any, floor: Any, scratch: planner.Scratch, *_: Any) -> int:
        scratch.by_latent[:64] = 999
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(planner, "search_unsealed", out_of_memory)
        with pytest.raises(MemoryError):
            index.search(**query)
    assert index.search(**query) == before
