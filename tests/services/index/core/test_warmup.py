"""No request waits for the compiler."""

import numpy as np

from services.index.core.compiled import COMPILED
from services.index.core.index import SparseIndex
from services.index.core.warmup import warmup
from services.index.core.where import Eq
from tests.services.index.core.checked import KERNELS
from tests.services.index.core.data import codes


def compiled_kernels() -> dict[str, int]:
    """Return how many variants of each kernel were compiled or read from the disk cache."""
    return {f"{kernel.py_func.__module__}.{kernel.py_func.__name__}": len(kernel.signatures) for kernel in COMPILED}


def test_nothing_is_compiled_after_warmup(tmp_path: object) -> None:
    """The first search, write, merge or restart after a deployment would take seconds and time out."""
    warmup()
    before = compiled_kernels()
    assert before["services.index.core.planner._search_sealed"] == 1, "one variant serves every query"
    rng = np.random.default_rng(0)
    index = SparseIndex(512, 32, {"tag": "keywords", "year": "int"})
    for begin in range(0, 40_000, 5_000):
        batch = codes(rng, "uniform", 5_000, 512, 32)
        names = [str(begin + row) for row in range(5_000)]
        index.upsert(names, batch.latents, batch.weights, [{"tag": ["a"], "year": begin}] * 5_000)
    index.upsert_quantised(["stored"], [2], np.array([1, 2], np.uint16), np.array([9, 8], np.uint16))
    index.delete([str(row) for row in range(0, 40_000, 3)])
    index.save(f"{tmp_path}/snapshot")
    loaded = SparseIndex.load(f"{tmp_path}/snapshot")
    queries = codes(rng, "uniform", 20, 512, 256)
    for each in (index, loaded):
        for k in (1, 8, 32):
            for kernel in KERNELS:
                options = {"k": k, "min_score": 0.1, "where": Eq("tag", "a"), "threads": 2, "kernel": kernel}
                each.search(queries.latents, queries.weights, 100, **options)
        each.explain(queries.latents[:1], queries.weights[:1], ["1", "2"])
        each.statistics()
        each.scan(100, "1", Eq("tag", "a"))
        each.cost(queries.latents, queries.weights, k=8)
        each.delete([str(row) for row in range(20_000)])
    assert compiled_kernels() == before
