"""What a segment derives from its codes: postings by latent, norms of prefixes, and maxima by block.

Everything here only prunes: it is rounded so that a row looks at least as good as it is. Scores come from the codes.

Arrays are made by numpy, not by compiled code: numpy asks for large pages. In those of 4 KiB, an array of 100 MB takes
whoever drops it longer to give back than a search takes, and every other thread waits for the GIL meanwhile.
"""

from typing import Final, NamedTuple

import numpy as np

from services.index.core.compiled import compiled, inlined
from services.index.core.shapes import F32, F64, I64, U8, U16, U32

WINDOW: Final = 1 << 16
"""Rows that one accumulator covers: postings name a row within its window as u16."""
BLOCK: Final = 64
"""Rows that share their maxima, and one word of bits."""
_U8_MAX: Final = 255
_U16_MAX: Final = 65_535


class Postings(NamedTuple):
    """Rows by latent.

    A cell is all postings of one latent, one window of rows, and one level (ranks that the level adds to the one
    below); cells lie in that order, rows ascending within. So the postings of a latent that documents show at some
    level are one run per window: from the start of its first cell to the end of that level's cell.

    starts: u32 [h · windows · levels + 1], where cells begin. rows: u16, within the window. weights: u8, in units of
    the latent, rounded up. units: u16 [h], ŵ of one step, so that the latent's greatest ŵ takes at most 255.
    """

    starts: U32
    rows: U16
    weights: U8
    units: U16


class Blocks(NamedTuple):
    """Maxima of the postings' weights over blocks of 64 rows.

    starts: u32 [h · levels + 1], cells of one latent and one level. numbers: u16, of blocks. rises: u8, by how much the
    block's maximum at this level exceeds that at the level below: their sum up to a level is the maximum there.
    """

    starts: U32
    numbers: U16
    rises: U8


class Norms(NamedTuple):
    """Norms √Σd̂² of every row's prefix.

    rows: u16 [levels, n], rounded down, at most 65,535. blocks: float32 [levels, blocks], 1 / the least norm of a row
    with a code, rounded up; 0 where there is none. greatest, least: float64 [levels], over all rows with a code; 1
    where there is none.
    """

    rows: U16
    blocks: F32
    greatest: F64
    least: F64


@inlined
def padded(count: int) -> int:
    """Return a multiple of 64 that is not below the count."""
    return (count + BLOCK - 1) // BLOCK * BLOCK


@compiled
def latent_units(latents: U16, weights: U16, hidden_dim: int) -> U16:
    """Return for each latent the least unit in which no weight exceeds 255."""
    greatest = np.zeros(hidden_dim, np.uint16)
    for row in range(len(latents)):
        for rank in range(latents.shape[1]):
            if weights[row, rank] == 0:
                break
            greatest[latents[row, rank]] = max(greatest[latents[row, rank]], weights[row, rank])
    for latent in range(hidden_dim):
        greatest[latent] = max(1, (greatest[latent] + _U8_MAX - 1) // _U8_MAX)
    return greatest


def build_postings(latents: U16, weights: U16, levels: I64, units: U16) -> Postings:
    """Return the postings of codes [n, k_max]."""
    windows = -(-len(latents) // WINDOW)
    level_of_rank = np.searchsorted(levels, np.arange(latents.shape[1]), side="right")
    starts = np.zeros(len(units) * windows * len(levels) + 1, np.uint32)
    _count_postings(latents, weights, level_of_rank, windows, len(levels), starts)
    np.cumsum(starts, dtype=np.uint32, out=starts)
    rows, steps = np.empty(starts[-1], np.uint16), np.empty(starts[-1], np.uint8)
    _fill_postings(latents, weights, level_of_rank, windows, len(levels), units, starts[:-1].copy(), rows, steps)
    return Postings(starts, rows, steps, units)


@compiled
def _count_postings(latents: U16, weights: U16, level_of_rank: I64, windows: int, levels: int, starts: U32) -> None:
    """Add to starts[cell + 1] how many postings a cell has."""
    count, k_max = latents.shape
    for row in range(count):
        for rank in range(k_max):
            if weights[row, rank] == 0:
                break
            starts[(latents[row, rank] * windows + row // WINDOW) * levels + level_of_rank[rank] + 1] += 1


@compiled
def _fill_postings(
    latents: U16,
    weights: U16,
    level_of_rank: I64,
    windows: int,
    levels: int,
    units: U16,
    free: U32,
    posting_rows: U16,
    posting_weights: U8,
) -> None:
    """Write postings at the first free place of their cells."""
    count, k_max = latents.shape
    for row in range(count):
        for rank in range(k_max):
            if weights[row, rank] == 0:
                break
            latent = latents[row, rank]
            cell = (latent * windows + row // WINDOW) * levels + level_of_rank[rank]
            posting_rows[free[cell]] = row % WINDOW
            posting_weights[free[cell]] = in_units(weights[row, rank], units[latent])
            free[cell] += 1


def build_blocks(latents: U16, weights: U16, levels: I64, units: U16) -> Blocks:
    """Return the block maxima of codes [n, k_max]."""
    starts = np.zeros(len(units) * len(levels) + 1, np.uint32)
    nothing_free, no_numbers, no_rises = np.empty(0, np.uint32), np.empty(0, np.uint16), np.empty(0, np.uint8)
    _all_rises(latents, weights, levels, units, starts[1:], nothing_free, no_numbers, no_rises)
    np.cumsum(starts, dtype=np.uint32, out=starts)
    numbers, rises = np.empty(starts[-1], np.uint16), np.empty(starts[-1], np.uint8)
    _all_rises(latents, weights, levels, units, starts[:0], starts[:-1].copy(), numbers, rises)
    return Blocks(starts, numbers, rises)


@compiled
def _all_rises(
    latents: U16, weights: U16, levels: I64, units: U16, counts: U32, free: U32, numbers: U16, rises: U8
) -> None:
    """Count all blocks' cells into `counts`, or, where that is empty, write them at `free`."""
    below, reached = np.zeros(len(units), np.uint8), np.zeros(len(units), np.uint8)
    touched = np.empty(BLOCK * latents.shape[1], np.uint16)
    for block in range((len(latents) + BLOCK - 1) // BLOCK):
        _rises(latents, weights, levels, units, block, below, reached, touched, counts, free, numbers, rises)


@inlined
def _rises(
    latents: U16,
    weights: U16,
    levels: I64,
    units: U16,
    block: int,
    below: U8,
    reached: U8,
    touched: U16,
    counts: U32,
    free: U32,
    numbers: U16,
    rises: U8,
) -> None:
    """Count a block's cells into `counts`, or, where that is empty, write them at `free`.

    below and reached are scratch [h], all 0 before and after: maxima at the level below and at this one.
    """
    begin, end = block * BLOCK, min(len(latents), (block + 1) * BLOCK)
    seen, rank_begin = 0, 0
    for level in range(len(levels)):
        for row in range(begin, end):
            for rank in range(rank_begin, levels[level]):
                if weights[row, rank] == 0:
                    break
                latent = latents[row, rank]
                weight = in_units(weights[row, rank], units[latent])
                if weight > reached[latent]:
                    if reached[latent] == 0:
                        touched[seen] = latent
                        seen += 1
                    reached[latent] = weight
        for i in range(seen):
            latent = touched[i]
            if reached[latent] > below[latent]:
                cell = latent * len(levels) + level
                if len(counts):
                    counts[cell] += 1
                else:
                    numbers[free[cell]], rises[free[cell]] = block, reached[latent] - below[latent]
                    free[cell] += 1
                below[latent] = reached[latent]
        rank_begin = levels[level]
    for i in range(seen):
        below[touched[i]], reached[touched[i]] = 0, 0


@inlined
def in_units(weight: int, unit: int) -> int:
    """Return the least number of units that is not below the weight: the only rounding of postings and maxima."""
    return int((np.int64(weight) + np.int64(unit) - 1) // np.int64(unit))


def build_norms(weights: U16, levels: I64) -> Norms:
    """Return the norms of codes [n, k_max]."""
    rows = np.zeros((len(levels), len(weights)), np.uint16)
    blocks = np.zeros((len(levels), -(-len(weights) // BLOCK)), np.float32)
    greatest, least = np.ones(len(levels)), np.full(len(levels), np.inf)
    _fill_norms(weights, levels, rows, blocks, greatest, least)
    return Norms(rows, blocks, greatest, np.minimum(least, greatest))


@compiled
def _fill_norms(weights: U16, levels: I64, of_rows: U16, of_blocks: F32, greatest: F64, least: F64) -> None:
    for row in range(len(weights)):
        square, rank = np.int64(0), 0
        for level in range(len(levels)):
            while rank < levels[level] and weights[row, rank] > 0:
                square += np.int64(weights[row, rank]) * np.int64(weights[row, rank])
                rank += 1
            norm = np.sqrt(np.float64(square))
            of_rows[level, row] = min(int(norm), _U16_MAX)
            if square > 0:
                # One step of float32 more than the nearest, so that 1 / norm is never rounded down.
                inverse = np.float32(1 / norm) * np.float32(1 + 2**-22)
                of_blocks[level, row // BLOCK] = max(of_blocks[level, row // BLOCK], inverse)
                greatest[level], least[level] = max(greatest[level], norm), min(least[level], norm)


def lengths(starts: U32, hidden_dim: int, levels: int) -> U32:
    """Return how many postings each latent has at each level: u32 [levels, h]."""
    cells = np.diff(starts.astype(np.int64)).reshape(hidden_dim, -1, levels).sum(axis=1)
    return np.ascontiguousarray(np.cumsum(cells, axis=1).T.astype(np.uint32))
