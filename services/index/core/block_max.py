"""The block-max kernel: bound every block of 64 rows, then score the blocks that can matter, the most promising first.

A block's bound is Σ q̂·unit·maximum over the query's latents, over the least norm of its rows: no row of it scores
more. In code order similar documents share blocks, so few blocks reach the n-th best score.
"""

from typing import NamedTuple

import numpy as np

from services.index.core.compiled import inlined
from services.index.core.greatest import greatest, heapify, pop
from services.index.core.hits import Hits, missing, threshold
from services.index.core.postings import BLOCK, Blocks, Norms
from services.index.core.scoring import Documents, Query, score_block
from services.index.core.shapes import F32, I32, I64, U16

_FLOAT32_MARGIN = 1 - 2.0**-12
"""Keeps bounds on the safe side of float32 rounding: at most 256 latents times 9 levels additions of 2⁻²⁴ each."""
_SEEDS = 4
"""Blocks scored first while hits are missing, to set a threshold; full hits bring one from the segment before."""


class Bounds(NamedTuple):
    """Scratch. blocks: float32, a bound of each block's scores times √Σq̂². bits: the same memory as int32.

    Bits of positive floats order like the floats, and integers are compared by many at once.
    """

    blocks: F32
    bits: I32


def bounds(blocks_max: int) -> Bounds:
    """Return scratch for one thread and segments of at most so many blocks."""
    values = np.zeros(blocks_max, np.float32)
    return Bounds(values, values.view(np.int32))


@inlined
def block_max(
    blocks: Blocks,
    norms: Norms,
    units: U16,
    documents: Documents,
    level: int,
    query: Query,
    scratch: Bounds,
    hits: Hits,
    filled: int,
    most_visits: float,
) -> tuple[int, int, int, I64]:
    """Offer every allowed row that can be among the best, unless that means to score too many blocks.

    Returns:
        How many hits there are; how many blocks were left with a bound that reaches the threshold; how many were
        scored, seeds included; and the seeds. With more than `most_visits` left, only the seeds were offered.
    """
    size = len(norms.blocks[level])
    _bound(blocks, norms.blocks[level], units, level, query, scratch.blocks[:size])
    query_norm = np.sqrt(np.float64(query.square))
    room = missing(hits, filled)
    seeds = greatest(scratch.bits[:size], _SEEDS + room // BLOCK if room else 0)
    for block in seeds:
        filled = score_block(documents, query, block, hits, filled)
        scratch.blocks[block] = 0
    least = np.float32(threshold(hits, filled, query.floor) * query_norm * _FLOAT32_MARGIN)
    left = _count_reaching(scratch.blocks[:size], least)
    if left > most_visits:
        return filled, left, len(seeds), seeds
    visited = len(seeds)
    keys = _reaching_blocks(scratch, size, least, left)
    heapify(keys, left)
    for waiting in range(left, 0, -1):
        block = pop(keys, waiting) & 0xFFFF
        if scratch.blocks[block] < np.float32(threshold(hits, filled, query.floor) * query_norm * _FLOAT32_MARGIN):
            break
        filled = score_block(documents, query, block, hits, filled)
        visited += 1
    return filled, left, visited, seeds


@inlined
def _bound(blocks: Blocks, inverse_norms: F32, units: U16, level: int, query: Query, values: F32) -> None:
    levels = (len(blocks.starts) - 1) // len(units)
    values[:] = 0
    for i in range(len(query.latents)):
        cell = np.int64(query.latents[i]) * levels
        factor = np.float32(np.int64(query.weights[i]) * np.int64(units[query.latents[i]]))
        begin, end = blocks.starts[cell], blocks.starts[cell + level + 1]
        numbers, rises = blocks.numbers[begin:end], blocks.rises[begin:end]
        for p in range(len(numbers)):
            values[numbers[p]] += factor * np.float32(rises[p])
    for block in range(len(inverse_norms)):
        values[block] *= inverse_norms[block]


@inlined
def _count_reaching(values: F32, least: np.float32) -> int:
    """Return how many bounds are > 0 and not below the least."""
    count = 0
    for block in range(len(values)):
        count += int((values[block] >= least) & (values[block] > 0))
    return count


@inlined
def _reaching_blocks(scratch: Bounds, size: int, least: np.float32, count: int) -> I64:
    """Return the bounds > 0 and not below the least, as bits, with their blocks in the low 16 bits."""
    keys, found = np.empty(count, np.int64), 0
    for block in range(size):
        if scratch.blocks[block] >= least and scratch.blocks[block] > 0:
            keys[found] = (np.int64(scratch.bits[block]) << 16) | block
            found += 1
    return keys
