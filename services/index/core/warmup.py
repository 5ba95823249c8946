"""Compile everything before the first request has to wait for it."""

import tempfile
from pathlib import Path

import numpy as np

from services.index.core import code, writer
from services.index.core.index import SparseIndex
from services.index.core.where import Eq


def warmup() -> None:
    """Run every kernel once on a small index. Tens of seconds on a new machine, one or less from the disk cache."""
    count = writer.SEAL_ROWS
    index = SparseIndex(16, 4, {"word": "keyword"})
    latents = np.tile(np.arange(4), (count, 1))
    weights = np.ones((count, 4), np.float32)
    index.upsert([f"sealed-{i}" for i in range(count)], latents, weights)
    index.upsert(["recent"], latents[:1], weights[:1], [{"word": "a"}])
    index.upsert_quantised(["stored"], [1], [0], np.array([code.WEIGHT_ONE], np.uint16))
    for where in (None, Eq("word", "a")):
        index.search(latents[:1], weights[:1], 1, where=where)
    index.explain(latents[:1], weights[:1], ["recent"])
    index.scan(1)
    index.cost(latents[:1], weights[:1])
    index.delete([f"sealed-{i}" for i in range(count // 2)])
    index.statistics()
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "snapshot")
