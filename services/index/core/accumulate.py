"""The accumulate kernel: add up the postings of the query's latents, then score the rows whose sum can matter.

Sums are u16 and bound a row's true dot product from above: postings are rounded up to units of their latent, and so is
every product. With D dot products to one step of a sum,

    Σ q̂·d̂  ≤  Σ q̂·unit·posting  ≤  D · sum,

so a row whose score reaches θ has sum ≥ θ·√(Σq̂²·Σd̂²) / D, and every other row can be skipped. D is such that a sum
cannot overflow: with Cauchy-Schwarz on the true part, and one unit and two steps of rounding for each latent.
"""

from typing import NamedTuple

import numpy as np

from services.index.core.common import NONE, Common, add_lines
from services.index.core.compiled import inlined
from services.index.core.greatest import greatest
from services.index.core.hits import Hits, missing, threshold
from services.index.core.postings import BLOCK, WINDOW, Norms, Postings, padded
from services.index.core.scoring import Documents, Query, is_allowed, score_rows
from services.index.core.shapes import I64, U16

_FLOAT64_MARGIN = 1 - 1e-9
"""Keeps comparisons on the safe side of float64 rounding."""
_FLOAT32_MARGIN = 1 - 2.0**-20
"""Likewise, of one product of float32."""
_SUM_MAX = 65_535
_BLOCKS_ENOUGH = 4
"""So few blocks that reach the threshold need no better one."""
_BEST_BLOCKS = 12
"""Blocks whose best rows set a threshold in a window: several for each ten hits, because similar rows need not be
neighbours."""


class Sums(NamedTuple):
    """Scratch.

    rows: u16 [WINDOW], an upper bound of each row. blocks: u16 [WINDOW / 64], the greatest of a block. found: int64
    [WINDOW], rows to be scored.
    """

    rows: U16
    blocks: U16
    found: I64


def sums() -> Sums:
    """Return scratch for one thread."""
    return Sums(np.empty(WINDOW, np.uint16), np.empty(WINDOW // BLOCK, np.uint16), np.empty(WINDOW, np.int64))


@inlined
def accumulate(
    postings: Postings,
    common: Common,
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
    count = len(documents.latents)
    windows = (count + WINDOW - 1) // WINDOW
    query_norm = np.sqrt(np.float64(query.square))
    step, factors = _factors(query, postings.units, query_norm * norms.greatest[level])
    per_norm = query_norm / step * _FLOAT64_MARGIN
    least_norm = per_norm * norms.least[level]
    for window in range(windows):
        begin = window * WINDOW
        size = min(count - begin, WINDOW)
        scratch.rows[size : padded(size)] = 0
        _add(postings, common, window, windows, level, query.latents, factors, scratch.rows[:size])
        for block in offered:
            first = block * BLOCK - begin
            scratch.rows[max(first, 0) : min(max(first + BLOCK, 0), size)] = 0
        maxima = scratch.blocks[: padded(size) // BLOCK]
        _block_maxima(scratch.rows, maxima)
        if (
            missing(hits, filled)
            or _count_reaching(maxima, threshold(hits, filled, query.floor) * least_norm) > _BLOCKS_ENOUGH
        ):
            filled = _offer_best(documents, query, begin, size, scratch, hits, filled)
        least = threshold(hits, filled, query.floor) * per_norm
        rows = _reaching_rows(documents, norms, level, begin, size, scratch, least)
        filled = score_rows(documents, query, rows, hits, filled)
    return filled


@inlined
def _reaching_rows(
    documents: Documents, norms: Norms, level: int, begin: int, size: int, scratch: Sums, least: float
) -> I64:
    """Return the allowed rows of a window whose sum over norm is not below the least."""
    blocks, row_norms = padded(size) // BLOCK, norms.rows[level]
    maxima, inverses = scratch.blocks[:blocks], norms.blocks[level][begin // BLOCK :]
    lowest = np.uint16(max(1, min(least * norms.least[level], _SUM_MAX)))
    low = np.float32(least * _FLOAT32_MARGIN)
    for block in range(blocks):  # many at once
        maxima[block] = maxima[block] if np.float32(maxima[block]) * inverses[block] >= low else np.uint16(0)
    rows, found, kept = scratch.found, 0, 0
    for block in range(blocks):
        if maxima[block] < lowest:
            continue
        inverse = np.float64(inverses[block])
        for row in range(block * BLOCK, min(block * BLOCK + BLOCK, size)):
            if scratch.rows[row] >= lowest and scratch.rows[row] * inverse >= least:
                rows[found] = row
                found += 1
    # Norms of rows lie far apart in memory: without branches between them, they are fetched many at a time.
    for i in range(found):
        row = rows[i]
        rows[kept] = begin + row
        reaches = scratch.rows[row] >= least * row_norms[begin + row]
        kept += int(reaches & is_allowed(documents.allowed, begin + row))
    return rows[:kept]


@inlined
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


@inlined
def _add(
    postings: Postings, common: Common, window: int, windows: int, level: int, latents: U16, factors: I64, sums: U16
) -> None:
    levels, lines = len(common.places), 0
    places, line_factors = np.empty(len(latents), np.int64), np.empty(len(latents), np.int64)
    # Runs lie far apart in memory. Reading all their beginnings first lets the processor fetch them at the same time;
    # a sum that is used, if only as 0, cannot be left out by the compiler.
    begun = 0
    for i in range(len(latents)):
        first = postings.starts[(latents[i] * windows + window) * levels]
        if first < len(postings.rows):
            begun += postings.rows[first] + postings.weights[first]
    sums[:] = min(begun, 0)
    for i in range(len(latents)):
        if common.places[level, latents[i]] != NONE:
            places[lines], line_factors[lines] = common.places[level, latents[i]], factors[i]
            lines += 1
            continue
        cell = (latents[i] * windows + window) * levels
        factor = np.uint32(factors[i])
        begin, end = postings.starts[cell], postings.starts[cell + level + 1]
        rows, weights = postings.rows[begin:end], postings.weights[begin:end]
        for p in range(len(rows)):
            sums[rows[p]] += np.uint16((factor * np.uint32(weights[p]) + np.uint32(255)) >> np.uint32(8))
    add_lines(common.lines, places[:lines], line_factors[:lines], window * WINDOW, sums)


@inlined
def _block_maxima(sums: U16, maxima: U16) -> None:
    """Write the greatest of every 64 sums. Only in this very form does the compiler compare many at once."""
    for block in range(len(maxima)):
        most = np.uint16(0)
        for row in range(block * BLOCK, block * BLOCK + BLOCK):
            value = sums[row]
            most = value if value > most else most
        maxima[block] = most


@inlined
def _count_reaching(maxima: U16, least: float) -> int:
    """Return how many maxima are not below the least."""
    bound, count = np.uint16(min(least, _SUM_MAX)), 0
    for block in range(len(maxima)):
        count += int(maxima[block] >= bound)
    return count


@inlined
def _offer_best(
    documents: Documents, query: Query, begin: int, size: int, scratch: Sums, hits: Hits, filled: int
) -> int:
    """Offer the rows with the greatest sums of the best blocks, so that there is a threshold early.

    Their sums are cleared, so that no row is offered twice.
    """
    wanted = len(hits.heap) - 1
    maxima = np.empty(padded(size) // BLOCK, np.int32)
    for block in range(len(maxima)):
        maxima[block] = scratch.blocks[block]
    blocks = greatest(maxima, _BEST_BLOCKS + wanted // 16)
    values = np.empty(len(blocks) * BLOCK, np.int32)
    # Every block has a row that is not below the last one's best: that is enough, unless they are not allowed.
    for least in (maxima[blocks[-1]] if len(blocks) else 1, 1):
        found = 0
        for block in blocks:
            for row in range(block * BLOCK, min(block * BLOCK + BLOCK, size)):
                if scratch.rows[row] >= least and is_allowed(documents.allowed, begin + row):
                    values[found] = scratch.rows[row]
                    scratch.found[found] = begin + row
                    found += 1
        if found >= wanted:
            break
    best = greatest(values[:found], wanted)
    for i in range(len(best)):
        best[i] = scratch.found[best[i]]
        scratch.rows[best[i] - begin] = 0
    return score_rows(documents, query, best, hits, filled)
