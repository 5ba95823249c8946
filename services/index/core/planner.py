"""Which kernel answers a query on a segment. All give the same hits; this only saves time.

Costs are estimated from counts that are there anyway (postings, entries of block maxima, rows), times what one of each
costs; what the block-max kernel spends on blocks is remembered per segment from the queries before.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from services.index.core.accumulate import Sums, accumulate
from services.index.core.block_max import Bounds, block_max
from services.index.core.common import NONE, Common
from services.index.core.compiled import compiled, inlined
from services.index.core.hits import Hits, PackedIds, carry_ids
from services.index.core.postings import BLOCK, WINDOW, Blocks, Norms, Postings
from services.index.core.scoring import Documents, Query, load, score_all, unload
from services.index.core.shapes import F64, I64, U16, U32

Kernel: TypeAlias = Literal["accumulate", "block-max", "direct"]
KERNELS: Final[tuple[Kernel, ...]] = get_args(Kernel)
ACCUMULATE, BLOCK_MAX, DIRECT = range(3)
ANY: Final = -1

# Nanoseconds on one core; only their proportions matter. Whether they are still right shows as the planner's total time
# over that of the best single kernel, which benchmarks/index.py reports for every cell.
_NS_SUM: Final = 0.06
"""One row's sum: clear it and look at it."""
_NS_POSTING: Final = 0.3
_NS_LINE: Final = 0.05
"""One row's weight of a common latent."""
_NS_RUN: Final = 15.0
"""One run of postings, of a latent in a window."""
_NS_BLOCK: Final = 0.5
_NS_ENTRY: Final = 0.8
_NS_WEIGHT: Final = 0.5
"""One weight of a row that is scored from its code."""
_NS_SEARCH: Final = 20_000.0
"""What every search takes besides, from arrays to ids."""
_RETRY: Final = 64
"""Where block-max keeps losing, every so many queries its bounds are computed again."""
_MEMORY: Final = 0.1
"""Weight of the newest query in what is remembered."""


class Memory(NamedTuple):
    """What one segment remembers; the threads that search it share it, and a lost update does no harm.

    share: float64 [levels, 9], what block-max spent on blocks beside what accumulate costs, by level and by log2 of the
    query's latents; at most 1, since block-max hands over to accumulate. skipped: int64, of the same shape, queries
    since it was last tried. chosen: int64 [3], queries answered by each kernel. visited: int64 [1], blocks scored by
    block-max.
    """

    share: F64
    skipped: I64
    chosen: I64
    visited: I64


class Sealed(NamedTuple):
    """What kernels read of a segment. lengths: u32 [levels, h], postings of a latent at a level."""

    postings: Postings
    lengths: U32
    common: Common
    blocks: Blocks
    norms: Norms


class Scratch(NamedTuple):
    """What a thread reuses from query to query. by_latent: u16 [h], all 0 between queries."""

    sums: Sums
    bounds: Bounds
    by_latent: U16


def memory(levels: int) -> Memory:
    """Return what a new segment remembers: nothing, so that block-max is tried."""
    shape = (levels, 9)
    return Memory(np.zeros(shape), np.zeros(shape, np.int64), np.zeros(3, np.int64), np.zeros(1, np.int64))


def search_sealed(
    kernel: int,
    sealed: Sealed,
    documents: Documents,
    alive: int,
    level: int,
    latents: U16,
    weights: U16,
    floor: float,
    scratch: Scratch,
    hits: Hits,
    filled: int,
    remembered: Memory,
) -> int:
    """Offer every allowed row of a segment that can be among the best; return how many hits there are.

    Args:
        kernel: ACCUMULATE, BLOCK_MAX, DIRECT, or ANY to choose.
        alive: How many rows are allowed.
        level: Place of documents.k among the levels.
        latents, weights: The query's prefix, a stored code.
        floor: Least score of a hit.
    """
    return _search_sealed(
        kernel, _arrays(sealed), _plain(documents), documents.k, alive, level, latents, weights, floor,
        (*scratch.sums, *scratch.bounds, scratch.by_latent), tuple(hits), filled, tuple(remembered),
    )  # fmt: skip


def search_unsealed(
    documents: Documents, latents: U16, weights: U16, floor: float, scratch: Scratch, hits: Hits, filled: int
) -> int:
    """Offer every allowed row of the memtable; return how many hits there are."""
    return _search_unsealed(
        _plain(documents), documents.k, latents, weights, floor, scratch.by_latent, tuple(hits), filled
    )


def costs(segments: Sequence[Sealed], unsealed: int, k: int, level: int, latents: U16, weights: U16) -> I64:
    """Estimate what searches take, by accumulation in every segment, whatever kernel will be chosen.

    Args:
        segments: All that are searched.
        unsealed: Rows of the memtable.
        k: Latents of each document in use.
        level: Its place among the levels.
        latents, weights: Stored codes of queries, [queries, width].

    Returns:
        Nanoseconds for each query.
    """
    estimated = np.full(len(latents), _NS_SEARCH + unsealed * k * _NS_WEIGHT)
    for sealed in segments:
        _add_costs(_arrays(sealed), level, latents, weights, estimated)
    return estimated.astype(np.int64)


def _arrays(sealed: Sealed) -> tuple[Any, ...]:
    return (*sealed.postings, sealed.lengths, *sealed.common, *sealed.blocks, *sealed.norms)


def _plain(documents: Documents) -> tuple[Any, ...]:
    """Return the arrays. numba reads a plain tuple of them four times as fast as named ones within others."""
    return (documents.latents, documents.weights, *documents.ids, documents.allowed)


@compiled
def _search_sealed(
    kernel: int,
    arrays: Any,
    codes: Any,
    k: int,
    alive: int,
    level: int,
    latents: U16,
    weights: U16,
    floor: float,
    scratch: Any,
    room: Any,
    filled: int,
    remembered: Any,
) -> int:
    sealed = _named(arrays)
    documents = Documents(codes[0], codes[1], PackedIds(codes[2], codes[3]), codes[4], k)
    reused = Scratch(Sums(*scratch[:3]), Bounds(*scratch[3:5]), scratch[5])
    query, hits = load(latents, weights, floor, reused.by_latent), Hits(*room)
    if len(query.latents):
        filled = _search(kernel, sealed, documents, alive, level, query, reused, hits, filled, Memory(*remembered))
        carry_ids(hits, filled, documents.ids)
    unload(query)
    return filled


@compiled
def _add_costs(arrays: Any, level: int, latents: U16, weights: U16, estimated: F64) -> None:
    sealed = _named(arrays)
    for query in range(len(latents)):
        active = 0
        while active < latents.shape[1] and weights[query, active] > 0:
            active += 1
        accumulating, _ = _costs(sealed, sealed.norms.rows.shape[1], level, latents[query, :active])
        estimated[query] += accumulating


@inlined
def _named(arrays: Any) -> Sealed:
    return Sealed(Postings(*arrays[:4]), arrays[4], Common(*arrays[5:7]), Blocks(*arrays[7:10]), Norms(*arrays[10:]))


@compiled
def _search_unsealed(
    codes: Any, k: int, latents: U16, weights: U16, floor: float, by_latent: U16, room: Any, filled: int
) -> int:
    documents = Documents(codes[0], codes[1], PackedIds(codes[2], codes[3]), codes[4], k)
    query, hits = load(latents, weights, floor, by_latent), Hits(*room)
    filled = score_all(documents, query, hits, filled)
    carry_ids(hits, filled, documents.ids)
    unload(query)
    return filled


@inlined
def _search(
    kernel: int,
    sealed: Sealed,
    documents: Documents,
    alive: int,
    level: int,
    query: Query,
    scratch: Scratch,
    hits: Hits,
    filled: int,
    remembered: Memory,
) -> int:
    bucket = _bucket(len(query.latents))
    accumulating, bounding = _costs(sealed, len(documents.latents), level, query.latents)
    affordable = accumulating / (BLOCK * documents.k * _NS_WEIGHT)
    most_visits = np.inf
    if kernel == ANY:
        one_by_one = alive * documents.k * _NS_WEIGHT + len(documents.allowed)
        expected = bounding + remembered.share[level, bucket] * accumulating
        kernel = ACCUMULATE
        if one_by_one < min(accumulating, expected):
            kernel = DIRECT
        elif expected < accumulating:
            kernel = BLOCK_MAX
        elif bounding < accumulating:
            remembered.skipped[level, bucket] += 1
            if remembered.skipped[level, bucket] >= _RETRY:
                kernel = BLOCK_MAX
        most_visits = affordable
    seeds = np.empty(0, np.int64)
    if kernel == BLOCK_MAX:
        filled, left, visited, seeds = block_max(
            sealed.blocks, sealed.norms, sealed.postings.units, documents, level, query, scratch.bounds, hits, filled,
            most_visits,
        )  # fmt: skip
        remembered.share[level, bucket] += _MEMORY * (min(left / affordable, 1) - remembered.share[level, bucket])
        remembered.skipped[level, bucket] = 0
        remembered.visited[0] += visited
        if left > most_visits:
            kernel = ACCUMULATE
    if kernel == ACCUMULATE:
        filled = accumulate(
            sealed.postings, sealed.common, sealed.norms, documents, level, query, scratch.sums, hits, filled, seeds
        )
    elif kernel == DIRECT:
        filled = score_all(documents, query, hits, filled)
    remembered.chosen[kernel] += 1
    return filled


@inlined
def _costs(sealed: Sealed, rows: int, level: int, latents: U16) -> tuple[float, float]:
    """Return nanoseconds of the accumulate kernel, and of all block bounds."""
    postings, lines, entries = 0, 0, 0
    levels = len(sealed.lengths)
    for latent in latents:
        cell = np.int64(latent) * levels
        if sealed.common.places[level, latent] == NONE:
            postings += sealed.lengths[level, latent]
        else:
            lines += 1
        entries += sealed.blocks.starts[cell + level + 1] - sealed.blocks.starts[cell]
    windows = (rows + WINDOW - 1) // WINDOW
    accumulating = rows * _NS_SUM + postings * _NS_POSTING + len(latents) * windows * _NS_RUN
    accumulating += lines * rows * _NS_LINE
    return accumulating, rows / BLOCK * _NS_BLOCK + entries * _NS_ENTRY


@inlined
def _bucket(active: int) -> int:
    bucket = 0
    while active > 1:
        active >>= 1
        bucket += 1
    return bucket
