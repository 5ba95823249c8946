"""Time per query: the index against exact dense search by numpy, side by side."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

from csr_model import Codes, CSRAdapter
from orchestration.evaluate_answers import NEIGHBOURS, Floats
from orchestration.evaluate_search import index_of, unit
from services.index.core.index import SparseIndex

_ROUNDS: Final = 5
_SINGLE_QUERIES: Final = 32
_BATCH_QUERIES: Final = 256

Search = Callable[[int, int], object]
"""Answers the queries from one row to another."""


@dataclass(frozen=True)
class QueryTime:
    """Median seconds per query.

    Attributes:
        k: Level of the index; None for exact dense search.
        single: One query a call.
        batched: 256 queries a call, or all of them if they are fewer, on all cores.
    """

    k: int | None
    single: float
    batched: float


def time_queries(
    adapter: CSRAdapter, documents: Floats, queries: Floats, levels: Sequence[int] | None = None
) -> list[QueryTime]:
    """Time the 10 best hits of each query, dense first, then each level.

    Measures search alone, on encoded queries. All contenders take turns in every round, so that whatever else the
    machine does meets them alike.

    Args:
        adapter: Makes the codes.
        documents: [n, d].
        queries: [q, d].
        levels: Of the adapter's levels; all by default.
    """
    index = index_of(adapter.hidden_dim, adapter.encode(documents, adapter.k_max))
    asked = adapter.encode(queries, adapter.k_max)
    contenders: dict[int | None, Search] = {None: _dense_search(unit(documents), unit(queries))}
    contenders |= {k: _sparse_search(index, asked, k) for k in levels or adapter.levels}
    samples: dict[int | None, list[tuple[float, float]]] = {k: [] for k in contenders}
    for search in contenders.values():
        _sample(search, len(queries))  # the first call compiles and fills caches
    for _ in range(_ROUNDS):
        for k, search in contenders.items():
            samples[k].append(_sample(search, len(queries)))
    return [
        QueryTime(k, median(single for single, _ in taken), median(batched for _, batched in taken))
        for k, taken in samples.items()
    ]


def _sample(search: Search, queries: int) -> tuple[float, float]:
    single, batch = min(_SINGLE_QUERIES, queries), min(_BATCH_QUERIES, queries)
    started = time.perf_counter()
    for row in range(single):
        search(row, row + 1)
    between = time.perf_counter()
    search(0, batch)
    return (between - started) / single, (time.perf_counter() - between) / batch


def _dense_search(documents: Floats, queries: Floats) -> Search:
    top_n = min(NEIGHBOURS, len(documents) - 1)

    def search(start: int, stop: int) -> object:
        scores = queries[start:stop] @ documents.T
        best = np.argpartition(-scores, top_n, axis=1)[:, :top_n]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return search


def _sparse_search(index: SparseIndex, asked: Codes[Any], k: int) -> Search:
    cores = len(os.sched_getaffinity(0))

    def search(start: int, stop: int) -> object:
        threads = min(cores, stop - start)
        return index.search(asked.latents[start:stop], asked.weights[start:stop], NEIGHBOURS, k=k, threads=threads)

    return search
