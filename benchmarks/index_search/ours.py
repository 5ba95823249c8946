"""The index of this project: its planner, each kernel alone, and a level of a wider index."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.index_search.codes import TOP_N, Cut, RowNumbers, blocks
from benchmarks.index_search.engines import THREADS, Engine
from services.index.core.index import SparseIndex
from services.index.core.planner import KERNELS

OURS = "ours"
ROWS_PER_CALL = 1 << 20
"""Rows of one upsert when an index is filled."""
_FEW = 4_096


def kernel_name(kernel: str) -> str:
    """Return the name of the engine that uses one kernel alone."""
    return f"{OURS}, {kernel} only"


def names(count: int) -> list[str]:
    """Return the ids of rows 0 … count − 1; they sort like the rows."""
    return [f"{row:08d}" for row in range(count)]


def filled(cut: Cut) -> tuple[SparseIndex, float]:
    """Return an index of the documents, merged as far as it will be, and the seconds that took."""
    ids = names(len(cut))
    index = SparseIndex(cut.hidden_dim, cut.latents.shape[1])
    started = time.perf_counter()
    for block in blocks(len(cut), ROWS_PER_CALL):
        index.upsert(ids[block], cut.latents[block], cut.weights[block])
    index.settle()
    return index, time.perf_counter() - started


def build(cut: Cut) -> list[Engine]:
    """Return the planner and every kernel, over one index."""
    _compile(cut)
    index, seconds = filled(cut)
    held = index.statistics().bytes
    planned = engine(OURS, index, cut, seconds, held)
    forced = [engine(kernel_name(kernel), index, cut, seconds, held, kernel=kernel) for kernel in KERNELS]
    return [replace(planned, settings=lambda: _choices(index, cut)), *forced]


def engine(name: str, index: SparseIndex, cut: Cut, build_seconds: float, held: int | None, **options: Any) -> Engine:
    """Return an engine that asks an index through its public interface; options go to `search`."""
    search: Any = partial(index.search, top_n=TOP_N, **options)
    latents, weights = cut.query_latents, cut.query_weights

    def answer_all(queries: RowNumbers, threads: int) -> object:
        return search(latents[queries], weights[queries], threads=threads)

    return Engine(
        name=name,
        searches="codes",
        exact=True,
        answer=lambda query: search(latents[query : query + 1], weights[query : query + 1])[0],
        rows=lambda hits: [int(name) for name, _ in hits],
        answer_all=answer_all,
        build_seconds=build_seconds,
        bytes=held,
    )


def _compile(cut: Cut) -> None:
    """Use everything that is timed once, on a few documents."""
    few = replace(cut, latents=cut.latents[:_FEW], weights=cut.weights[:_FEW])
    index, _ = filled(few)
    for kernel in KERNELS:
        index.search(cut.query_latents[:4], cut.query_weights[:4], TOP_N, threads=2, kernel=kernel)


def _choices(index: SparseIndex, cut: Cut) -> str:
    """Say how often the planner chooses each kernel, by asking again: those that were forced are counted, too."""
    before = index.statistics().kernels
    index.search(cut.query_latents, cut.query_weights, TOP_N, threads=THREADS)
    chosen = {kernel: count - before[kernel] for kernel, count in index.statistics().kernels.items()}
    total = max(sum(chosen.values()), 1)
    return "planner: " + ", ".join(f"{kernel} {100 * count / total:.0f} %" for kernel, count in chosen.items())


def id_bytes(index: SparseIndex) -> int:
    """Return what the ids take: their bytes, offsets and hash tables."""
    return sum(part.segment.rows.ids.nbytes + part.segment.slots.nbytes for part in index.state.parts)
