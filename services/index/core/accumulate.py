"""The accumulate kernel: add up the postings of the query's latents, then score the rows whose sum can matter.

Sums are u16 and bound a row's true dot product from above: postings are rounded up to units of their latent, and so is
every product. With D dot products to one step of a sum,

    Σ q̂·d̂  ≤  Σ q̂·unit·posting  ≤  D · sum,

so a row whose score reaches θ has sum ≥ θ·√(Σq̂²·Σd̂²) / D, and every other row can be skipped. D is such that a sum
cannot overflow: with Cauchy-Schwarz on the true part, and one unit and two steps of rounding for each latent.
"""

from typing import NamedTuple

import numpy as np

from services.index.core.compiled import compiled
from services.index.core.hits import Hits, threshold
from services.index.core.postings import BLOCK, WINDOW, Norms, Postings
from services.index.core.scoring import Documents, Query, is_allowed, score_row
from services.index.core.shapes import I64, U16

SAFE = 1 - 1e-9
"""Keeps comparisons on the safe side of float64 rounding."""
_SUM_MAX = 65_535
_SEEDS = 4


class Sums(NamedTuple):
    """Scratch. rows: u16 [WINDOW], an upper bound of each row. blocks: u16 [WINDOW / 64], the greatest of a block."""

    rows: U16
    blocks: U16


def sums() -> Sums:
    """Return scratch for one thread."""
    return Sums(np.empty(WINDOW, np.uint16), np.empty(WINDOW // BLOCK, np.uint16))


@compiled
def accumulate(
    postings: Postings,
    norms: Norms,
    documents: Documents,
    level: int,
    query: Query,
    scratch: Sums,
    hits: Hits,
    filled: int,
    offered: I64,
) -> int:
    """Offer every allowed row that can be among the best; return how many hits there are.

    Rows of the blocks in `offered` were offered before.
    """
    count, levels = len(documents.latents), len(norms.greatest)
    windows = (count + WINDOW - 1) // WINDOW
    query_norm = np.sqrt(np.float64(query.square))
    step, factors = _factors(query, postings.units, query_norm * norms.greatest[level])
    for window in range(windows):
        begin = window * WINDOW
        size = min(count - begin, WINDOW)
        _add(postings, window, windows, levels, level, query.latents, factors, scratch.rows[:size])
        for block in offered:
            first = block * BLOCK - begin
            scratch.rows[max(first, 0) : min(max(first + BLOCK, 0), size)] = 0
        _block_maxima(scratch.rows[:size], scratch.blocks)
        per_norm = query_norm / step * SAFE
        if filled < len(hits.heap):
            filled = _offer_best(documents, query, begin, size, scratch, hits, filled)
        for block in range((size + BLOCK - 1) // BLOCK):
            least = _least(hits, filled, query.floor, per_norm)
            inverse = norms.blocks[level, (begin >> 6) + block]
            if scratch.blocks[block] * np.float64(inverse) < least or scratch.blocks[block] == 0:
                continue
            first = block * BLOCK
            for row in range(first, min(first + BLOCK, size)):
                bound = scratch.rows[row]
                if bound and bound >= least * norms.rows[level, begin + row] and is_allowed(
                    documents.allowed, begin + row
                ):
                    filled = score_row(documents, query, begin + row, hits, filled)
                    least = _least(hits, filled, query.floor, per_norm)
    return filled


@compiled
def _factors(query: Query, units: U16, most: float) -> tuple[float, I64]:
    """Return D, and for each latent q̂·unit·256 / D, rounded up; `most` is √(Σq̂² · max Σd̂²)."""
    active = len(query.latents)
    factors = np.empty(active, np.int64)
    rounding = 0.0
    for i in range(active):
        factors[i] = np.int64(query.weights[i]) * np.int64(units[query.latents[i]])
        rounding += factors[i]
    step = (most + rounding) / (_SUM_MAX - 2 * active - 2)
    for i in range(active):
        factors[i] = np.int64(np.ceil(factors[i] * 256 / step))
    return step, factors


@compiled
def _add(
    postings: Postings, window: int, windows: int, levels: int, level: int, latents: U16, factors: I64, sums: U16
) -> None:
    sums[:] = 0
    for i in range(len(latents)):
        cell = (latents[i] * windows + window) * levels
        factor = np.uint32(factors[i])
        begin, end = postings.starts[cell], postings.starts[cell + level + 1]
        rows, weights = postings.rows[begin:end], postings.weights[begin:end]
        for p in range(len(rows)):
            sums[rows[p]] += np.uint16((factor * np.uint32(weights[p]) + np.uint32(255)) >> np.uint32(8))


@compiled
def _block_maxima(sums: U16, maxima: U16) -> None:
    whole = len(sums) // BLOCK
    for block in range(whole):
        part = sums[block * BLOCK : block * BLOCK + BLOCK]
        greatest = np.uint16(0)
        for i in range(BLOCK):
            greatest = max(greatest, part[i])
        maxima[block] = greatest
    if whole * BLOCK < len(sums):
        greatest = np.uint16(0)
        for row in range(whole * BLOCK, len(sums)):
            greatest = max(greatest, sums[row])
        maxima[whole] = greatest


@compiled
def _least(hits: Hits, filled: int, floor: float, per_norm: float) -> float:
    """Return the least sum over norm of a row that can be among the best."""
    return threshold(hits, filled, floor) * per_norm


@compiled
def _offer_best(
    documents: Documents, query: Query, begin: int, size: int, scratch: Sums, hits: Hits, filled: int
) -> int:
    """Offer the rows with the greatest sums of the best blocks, so that there is a threshold early.

    Their sums are cleared, so that no row is offered twice.
    """
    missing = len(hits.heap) - filled
    found = 0
    best = _best_blocks(scratch.blocks[: (size + BLOCK - 1) // BLOCK], _SEEDS + missing // 16)
    keys = np.empty(len(best) * BLOCK, np.uint32)
    for block in best:
        for row in range(block * BLOCK, min(block * BLOCK + BLOCK, size)):
            if scratch.rows[row] and is_allowed(documents.allowed, begin + row):
                keys[found] = (np.uint32(scratch.rows[row]) << np.uint32(16)) | np.uint32(row)
                found += 1
    keys = keys[:found]
    least = np.partition(keys, found - missing)[found - missing] if found > missing else np.uint32(0)
    for key in keys:
        if key >= least:
            row = np.int64(key & np.uint32(0xFFFF))
            scratch.rows[row] = 0
            filled = score_row(documents, query, begin + row, hits, filled)
    return filled


@compiled
def _best_blocks(maxima: U16, wanted: int) -> I64:
    """Return the blocks with the greatest maxima, at most `wanted`, in any order."""
    keys = np.empty(len(maxima), np.int64)
    for block in range(len(maxima)):
        keys[block] = (np.int64(maxima[block]) << 16) | block
    if len(keys) > wanted:
        keys = np.partition(keys, len(keys) - wanted)[len(keys) - wanted :]
    return keys & 0xFFFF
