"""One search over one State: which rows are allowed, what they score, which are best."""

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, kernels
from services.index.core.bits import Words
from services.index.core.code import Codes
from services.index.core.columns import Mask
from services.index.core.limits import PARTITION_MAX
from services.index.core.rows import Rows
from services.index.core.segment import Part
from services.index.core.where import Where, evaluate
from services.index.core.writer import State

Hit: TypeAlias = tuple[str, float]
_U32_END = 1 << 32


@dataclass(frozen=True, slots=True)
class Options:
    """Checked search options. `level` is the place of k_docs among the levels."""

    top_n: int
    k_query: int
    k_docs: int
    level: int
    floor: float
    """Least score of a hit; 0 admits every score, which are all > 0."""


class Scratch(threading.local):
    """Arrays that every thread reuses from query to query."""

    def __init__(self, hidden_dim: int) -> None:
        self.narrow_sums = np.empty(kernels.WINDOW, np.uint32)
        self.sums = np.empty(kernels.WINDOW, np.int64)
        self.squares = np.empty(kernels.WINDOW, np.int64)
        self.query_by_latent = np.zeros(hidden_dim, np.int64)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Rows that a search may find, for each part of a state and its recent rows."""

    parts: tuple[Words, ...]
    recent: Words


def allowed_rows(state: State, where: Where | None, partitions: Collection[int] | None) -> Allowed:
    """Evaluate a checked filter and a set of partitions over all rows that are not deleted."""
    if where is None and partitions is None:
        return Allowed(tuple(part.alive for part in state.parts), state.recent_alive)
    wanted = None
    if partitions is not None:
        wanted = np.zeros(PARTITION_MAX + 1, np.bool_)
        wanted[list(partitions)] = True

    def restrict(alive: Words, rows: Rows) -> Words:
        mask: Mask = np.ones(len(rows), np.bool_) if where is None else evaluate(where, rows.columns)
        if wanted is not None:
            mask = mask & wanted[rows.partitions]
        packed = bits.pack(mask)
        return alive[: len(packed)] & packed

    parts = tuple(restrict(part.alive, part.segment.rows) for part in state.parts)
    return Allowed(parts, restrict(state.recent_alive, state.recent))


def search(
    state: State, queries: Codes, options: Options, allowed: Allowed, scratch: Scratch, threads: int
) -> list[list[Hit]]:
    """Return the hits of every query, the same for any number of threads."""
    answer = partial(_search_one, state, options, allowed, scratch)
    latents, weights = (part[:, : options.k_query] for part in queries)
    if threads == 1 or len(latents) < 2:
        return list(map(answer, latents, weights))
    chunks = zip(np.array_split(latents, threads), np.array_split(weights, threads), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        answered = pool.map(lambda chunk: list(map(answer, *chunk)), chunks)
        return list(chain.from_iterable(answered))


@dataclass(frozen=True, slots=True)
class _Query:
    """One query's prefix, Σq̂² of it, and the min-heap of the best scores so far."""

    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]
    square: int
    best: NDArray[np.float64]


def _search_one(
    state: State,
    options: Options,
    allowed: Allowed,
    scratch: Scratch,
    latents: NDArray[np.uint16],
    weights: NDArray[np.uint16],
) -> list[Hit]:
    active = int(np.count_nonzero(weights))
    if not active:
        return []
    square = int(np.sum(weights.astype(np.int64) ** 2))
    query = _Query(latents[:active], weights[:active], square, np.empty(options.top_n))
    found: list[tuple[Rows, NDArray[np.int64], NDArray[np.float64]]] = []
    filled = 0
    for part, words in zip(state.parts, allowed.parts, strict=True):
        rows, scores, filled = _score_part(part, words, query, options, scratch, filled)
        found.append((part.segment.rows, rows, scores))
    rows, scores, filled = _score_recent(state.recent, allowed.recent, query, options, scratch, filled)
    found.append((state.recent, rows, scores))
    worst = query.best[0] if filled == options.top_n else 0.0
    # All rows tied with the last place are still here, so that ids alone decide between them.
    ranked = sorted(
        (-score, source.ids.row(row).tobytes())
        for source, rows, scores in found
        for row, score in zip(rows[scores >= worst].tolist(), scores[scores >= worst].tolist(), strict=True)
    )
    return [(name.decode(), -score) for score, name in ranked[: options.top_n]]


def _score_part(
    part: Part, words: Words, query: _Query, options: Options, scratch: Scratch, filled: int
) -> kernels.Found:
    segment, level = part.segment, options.level
    # Cauchy-Schwarz: Σq̂·d̂ ≤ √(Σq̂²·Σd̂²). Half as wide an accumulator is faster wherever nothing can overflow it.
    narrow = query.square * segment.greatest_squares[level] < _U32_END * _U32_END
    return kernels.score_postings(
        segment.starts,
        segment.posting_rows,
        segment.posting_weights,
        segment.squares[level],
        segment.least_squares[level],
        len(segment.squares),
        level,
        query.latents,
        query.weights,
        query.square,
        words,
        options.floor,
        query.best,
        filled,
        scratch.narrow_sums if narrow else scratch.sums,
    )


def _score_recent(
    rows: Rows, words: Words, query: _Query, options: Options, scratch: Scratch, filled: int
) -> kernels.Found:
    return kernels.score_rows(
        rows.latents,
        rows.weights,
        options.k_docs,
        query.latents,
        query.weights,
        query.square,
        words,
        options.floor,
        query.best,
        filled,
        scratch.query_by_latent,
        scratch.sums,
        scratch.squares,
    )


def document_ids(state: State) -> list[str]:
    """Return the ids of all documents, ascending as UTF-8 bytes."""
    sources = [(part.segment.rows, part.alive) for part in state.parts] + [(state.recent, state.recent_alive)]
    names = [rows.ids.row(row).tobytes() for rows, alive in sources for row in bits.rows_of(alive, len(rows)).tolist()]
    return [name.decode() for name in sorted(names)]
