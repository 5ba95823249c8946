"""One search over one State: which rows are allowed, what they score, which are best."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.index.core import accumulate, bits, block_max, code, hits, planner
from services.index.core.bits import Words
from services.index.core.code import Codes
from services.index.core.columns import Mask
from services.index.core.hits import Hits, PackedIds
from services.index.core.limits import HIDDEN_DIM_MAX
from services.index.core.postings import BLOCK
from services.index.core.rows import Rows
from services.index.core.scoring import Documents
from services.index.core.segment import ROWS_MAX
from services.index.core.where import Where, evaluate
from services.index.core.writer import State

Hit: TypeAlias = tuple[str, float]
_ID, _SCORE = itemgetter(0), itemgetter(1)


class Options(NamedTuple):
    """Checked search options. `level` is the place of k_docs among the levels."""

    top_n: int
    k_query: int
    k_docs: int
    level: int
    floor: float
    """Least score of a hit; 0 admits every score, which are all > 0."""
    kernel: int
    """Kernel for segments; planner.ANY to choose."""


class _OfThread(threading.local):
    """What every thread reuses from query to query, whatever index it searches."""

    def __init__(self) -> None:
        bounds = block_max.bounds(ROWS_MAX // BLOCK)
        self.scratch = planner.Scratch(accumulate.sums(), bounds, np.zeros(HIDDEN_DIM_MAX, np.uint16))


_of_thread = _OfThread()


class Allowed(NamedTuple):
    """Rows that a search may find, for each part of a state and its recent rows."""

    parts: tuple[tuple[Words, int], ...]
    """Bits, and how many are set."""
    recent: Words

    @property
    def documents(self) -> int:
        """How many rows these are."""
        return sum(count for _, count in self.parts) + bits.count(self.recent)


def allowed_rows(state: State, where: Where | None, partitions: NDArray[np.bool_] | None) -> Allowed:
    """Evaluate a checked filter and a choice of partitions, [65,536], over all rows that are not deleted."""
    if where is None and partitions is None:
        return Allowed(tuple((part.alive, part.documents) for part in state.parts), state.recent_alive)

    def restrict(alive: Words, rows: Rows) -> Words:
        mask: Mask = np.ones(len(rows), np.bool_) if where is None else evaluate(where, rows.columns)
        if partitions is not None:
            mask = mask & partitions[rows.partitions]
        packed = bits.pack(mask)
        return alive[: len(packed)] & packed

    words = [restrict(part.alive, part.segment.rows) for part in state.parts]
    return Allowed(
        tuple((allowed, bits.count(allowed)) for allowed in words), restrict(state.recent_alive, state.recent)
    )


def search(state: State, queries: Codes, options: Options, allowed: Allowed, threads: int) -> list[list[Hit]]:
    """Return the hits of every query, the same for any number of threads."""
    answer = partial(_search_one, state, options, allowed)
    latents, weights = (part[:, : options.k_query] for part in queries)
    threads = min(threads, len(latents))
    if threads < 2:
        return list(map(answer, latents, weights))
    chunks = zip(np.array_split(latents, threads), np.array_split(weights, threads), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        answered = pool.map(lambda chunk: list(map(answer, *chunk)), chunks)
        return list(chain.from_iterable(answered))


def costs(state: State, queries: Codes, options: Options) -> NDArray[np.int64]:
    """Return what each query is estimated to take, in nanoseconds."""
    prefixes = code.with_width(queries, min(options.k_query, queries.latents.shape[1]))
    segments = [part.segment.sealed for part in state.parts]
    return planner.costs(segments, len(state.recent), options.k_docs, options.level, *prefixes)


def _search_one(
    state: State,
    options: Options,
    allowed: Allowed,
    latents: NDArray[np.uint16],
    weights: NDArray[np.uint16],
) -> list[Hit]:
    best, filled, scratch = hits.room(options.top_n), 0, _of_thread.scratch
    try:
        for part, (words, count) in zip(state.parts, allowed.parts, strict=True):
            if count:
                segment = part.segment
                filled = planner.search_sealed(
                    options.kernel,
                    segment.sealed,
                    _documents(segment.rows, words, options.k_docs),
                    count,
                    options.level,
                    latents,
                    weights,
                    options.floor,
                    scratch,
                    best,
                    filled,
                    segment.memory,
                )
        if len(state.recent):
            documents = _documents(state.recent, allowed.recent, options.k_docs)
            filled = planner.search_unsealed(documents, latents, weights, options.floor, scratch, best, filled)
    except BaseException:
        # A kernel that ran out of memory half-way leaves the query's weights behind.
        scratch.by_latent[:] = 0
        raise
    return _ranked(best, filled)


def _ranked(best: Hits, filled: int) -> list[Hit]:
    offsets, text = hits.ids_of(best, filled)
    names, scores = text.tobytes(), best.scores[best.heap[:filled]].tolist()
    ends = pairwise(offsets.tolist())
    found = [(names[begin:end].decode(), score) for (begin, end), score in zip(ends, scores, strict=True)]
    if len(set(scores)) < filled:
        found.sort(key=_ID)  # text compares like its UTF-8, and the next sort keeps the order of ties
    found.sort(key=_SCORE, reverse=True)
    return found


def _documents(rows: Rows, allowed: Words, k_docs: int) -> Documents:
    return Documents(rows.latents, rows.weights, PackedIds(rows.ids.flat, rows.ids.offsets), allowed, k_docs)


def document_ids(state: State) -> list[str]:
    """Return the ids of all documents, ascending as UTF-8 bytes."""
    of_alive = [(rows.ids, bits.rows_of(alive, len(rows)).tolist()) for rows, alive in state.sources]
    names = [ids.row(row).tobytes() for ids, alive_rows in of_alive for row in alive_rows]
    return [name.decode() for name in sorted(names)]
