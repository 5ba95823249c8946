"""How batches become segments."""

import numpy as np
import pytest

from services.index.core import segment, writer
from services.index.core.index import SparseIndex


def test_a_batch_larger_than_a_segment_becomes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million documents in one call would overflow the numbers of blocks, or lose what is beyond the bound."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 10)
    monkeypatch.setattr(segment, "ROWS_MAX", 20)
    index = SparseIndex(64, 1, {"row": "int"})
    names, latents, ones = [f"{row:02d}" for row in range(50)], np.arange(50)[:, None], np.ones((50, 1), np.float32)
    index.upsert(names, latents, ones, [{"row": row} for row in range(50)])
    assert [len(part.segment) for part in index.state.parts] == [20, 20, 10]
    assert index.search(latents, ones, 10) == [[(name, 1.0)] for name in names]
    index.upsert(names, latents[::-1], ones)
    assert index.search(latents, ones, 10) == [[(name, 1.0)] for name in names[::-1]]
    assert len(index) == 50
