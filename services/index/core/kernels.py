"""Compiled loops: build postings, add up integer dot products, select the best rows.

Sums are exact integers; a score is one float64 square root and one division, so it has the same bits whatever the
order of work. Everything that decides early compares in a way that can only let too much through, never too little.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.index.core.bits import Words
from services.index.core.compiled import compiled

WINDOW: Final = 1 << 16
"""Rows that one accumulator covers: postings name a row within its window as u16."""
_CHUNK: Final = 64
_SLACK: Final = 1 - 1e-9
"""Keeps early comparisons on the safe side of float64 rounding (relative error of a score < 1e-15)."""

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Found = tuple[I64, F64, int]
"""Rows, their scores, and how many of the best scores are filled."""


@compiled
def build_postings(latents: U16, weights: U16, levels: I64, hidden_dim: int) -> tuple[U32, U16, U16]:
    """Return (starts, rows, weights) of the postings of codes [n, k_max].

    A cell is all postings of one latent, one window of rows, and one level (ranks that the level adds to the one
    below); cells lie in that order, rows ascending within. So the postings of a latent that documents show at some
    level are one run per window: from the start of its first cell to the end of that level's cell.
    """
    count, k_max = latents.shape
    windows = (count + WINDOW - 1) // WINDOW
    added_by = np.searchsorted(levels, np.arange(k_max), side="right")
    starts = np.zeros(hidden_dim * windows * len(levels) + 1, np.uint32)
    for row in range(count):
        for rank in range(k_max):
            if weights[row, rank] == 0:
                break
            cell = (latents[row, rank] * windows + row // WINDOW) * len(levels) + added_by[rank]
            starts[cell + 1] += 1
    for cell in range(len(starts) - 1):
        starts[cell + 1] += starts[cell]
    free = starts[:-1].copy()
    posting_rows = np.empty(starts[-1], np.uint16)
    posting_weights = np.empty(starts[-1], np.uint16)
    for row in range(count):
        for rank in range(k_max):
            if weights[row, rank] == 0:
                break
            cell = (latents[row, rank] * windows + row // WINDOW) * len(levels) + added_by[rank]
            posting_rows[free[cell]] = row % WINDOW
            posting_weights[free[cell]] = weights[row, rank]
            free[cell] += 1
    return starts, posting_rows, posting_weights


@compiled
def prefix_squares(weights: U16, levels: I64) -> I64:
    """Return Σŵ² of every row's prefix at every level: int64 [levels, n]."""
    squares = np.empty((len(levels), len(weights)), np.int64)
    for row in range(len(weights)):
        total = np.int64(0)
        rank = 0
        for level in range(len(levels)):
            while rank < levels[level]:
                total += np.int64(weights[row, rank]) * np.int64(weights[row, rank])
                rank += 1
            squares[level, row] = total
    return squares


@compiled
def count_usage(latents: U16, weights: U16, alive: Words, usage: I64) -> None:
    """Add to usage[latent] the number of alive rows whose code has it."""
    for row in range(len(latents)):
        if not _has(alive, row):
            continue
        for rank in range(latents.shape[1]):
            if weights[row, rank] == 0:
                break
            usage[latents[row, rank]] += 1


@compiled
def score_postings(
    starts: U32,
    posting_rows: U16,
    posting_weights: U16,
    squares: I64,
    least_square: int,
    levels: int,
    level: int,
    query_latents: U16,
    query_weights: U16,
    query_square: int,
    allowed: Words,
    floor: float,
    best: F64,
    filled: int,
    sums: NDArray[Any],
) -> Found:
    """Score a segment's rows at a level: add every query latent's postings into an accumulator, then select.

    Args:
        starts, posting_rows, posting_weights: From `build_postings`.
        squares: Σd̂² of every row at this level, [n]; least_square is the smallest that is not 0.
        levels: Number of levels in the postings; level is the one to use.
        query_latents, query_weights, query_square: The query's prefix and its Σq̂².
        allowed: Rows that may be found.
        floor: Least score that may be found.
        best: Min-heap of the best scores so far over all segments, of which `filled` are there; updated.
        sums: Scratch [WINDOW] of an integer type that no dot product here can overflow.

    Returns:
        Every allowed row with a score > 0, not below floor and not below the worst of a full heap.
    """
    windows = (len(squares) + WINDOW - 1) // WINDOW
    rows, scores, found = np.empty(2 * len(best), np.int64), np.empty(2 * len(best)), 0
    for window in range(windows):
        begin = window * WINDOW
        window_sums = sums[: min(len(squares) - begin, WINDOW)]
        window_sums[:] = 0
        for i in range(len(query_latents)):
            cell = (query_latents[i] * windows + window) * levels
            weight = np.int64(query_weights[i])
            for posting in range(starts[cell], starts[cell + level + 1]):
                window_sums[posting_rows[posting]] += weight * np.int64(posting_weights[posting])
        rows, scores, found, filled = _select(
            window_sums, begin, squares, least_square, query_square, allowed, floor, best, filled, rows, scores, found
        )
    found = _keep(rows, scores, found, _threshold(floor, best, filled))
    return rows[:found], scores[:found], filled


@compiled
def score_rows(
    latents: U16,
    weights: U16,
    k_docs: int,
    query_latents: U16,
    query_weights: U16,
    query_square: int,
    allowed: Words,
    floor: float,
    best: F64,
    filled: int,
    query_by_latent: I64,
    sums: I64,
    squares: I64,
) -> Found:
    """Score the memtable's rows, at most WINDOW, one by one; as `score_postings`.

    query_by_latent is scratch [hidden_dim], all 0 before and after; sums and squares are scratch [WINDOW].
    """
    for i in range(len(query_latents)):
        query_by_latent[query_latents[i]] = query_weights[i]
    for row in range(len(latents)):
        total, square = np.int64(0), np.int64(0)
        for rank in range(k_docs):
            weight = np.int64(weights[row, rank])
            if weight == 0:
                break
            total += weight * query_by_latent[latents[row, rank]]
            square += weight * weight
        sums[row], squares[row] = total, square
    for i in range(len(query_latents)):
        query_by_latent[query_latents[i]] = 0
    rows, scores, found, filled = _select(
        sums[: len(latents)], 0, squares, 1, query_square, allowed, floor, best, filled,
        np.empty(2 * len(best), np.int64), np.empty(2 * len(best)), 0,
    )  # fmt: skip
    found = _keep(rows, scores, found, _threshold(floor, best, filled))
    return rows[:found], scores[:found], filled


@compiled
def _select(
    sums: NDArray[Any],
    begin: int,
    squares: I64,
    least_square: int,
    query_square: int,
    allowed: Words,
    floor: float,
    best: F64,
    filled: int,
    rows: I64,
    scores: F64,
    found: int,
) -> tuple[I64, F64, int, int]:
    """Append the rows begin, begin + 1, … whose sums are good enough; the buffers grow when ties fill them."""
    threshold = _threshold(floor, best, filled)
    least_sum, least_ratio = _cuts(threshold, query_square, least_square)
    for chunk in range(0, len(sums), _CHUNK):
        end = min(chunk + _CHUNK, len(sums))
        largest = sums[chunk]
        for i in range(chunk + 1, end):
            largest = max(largest, sums[i])
        if largest < least_sum:
            continue
        for i in range(chunk, end):
            row, total = begin + i, np.float64(sums[i])
            if sums[i] < least_sum or total * total < least_ratio * squares[row] or not _has(allowed, row):
                continue
            score = total / np.sqrt(np.float64(query_square) * np.float64(squares[row]))
            if score < threshold:
                continue
            if found == len(rows):
                found = _keep(rows, scores, found, threshold)
                if 2 * found > len(rows):
                    rows, scores = np.append(rows, np.empty_like(rows)), np.append(scores, np.empty_like(scores))
            rows[found], scores[found] = row, score
            found += 1
            filled = _push(best, filled, score)
            threshold = _threshold(floor, best, filled)
            least_sum, least_ratio = _cuts(threshold, query_square, least_square)
    return rows, scores, found, filled


@compiled
def _threshold(floor: float, best: F64, filled: int) -> float:
    """Return the least score that can still be among the results, ties included."""
    return max(floor, best[0]) if filled == len(best) else floor


@compiled
def _cuts(threshold: float, query_square: int, least_square: int) -> tuple[int, float]:
    """Return the sum, and the sum² per document square, below which no row reaches the threshold."""
    if threshold <= 0:
        return 1, 0.0
    ratio = threshold * threshold * np.float64(query_square) * _SLACK
    # A cut of 2³² - 1 fits both accumulator types and is still below every larger sum.
    return max(1, int(min(np.sqrt(ratio * least_square) * _SLACK, 4294967295.0))), ratio


@compiled
def _has(words: Words, row: int) -> bool:
    return bool((words[row >> 6] >> np.uint64(row & 63)) & np.uint64(1))


@compiled
def _keep(rows: I64, scores: F64, found: int, threshold: float) -> int:
    """Move the rows that reach the threshold to the front; return how many."""
    kept = 0
    for i in range(found):
        if scores[i] >= threshold:
            rows[kept], scores[kept] = rows[i], scores[i]
            kept += 1
    return kept


@compiled
def _push(best: F64, filled: int, score: float) -> int:
    """Offer a score to the min-heap of the len(best) largest; return how many it holds."""
    if filled < len(best):
        child = filled
        while child > 0 and best[(child - 1) // 2] > score:
            best[child] = best[(child - 1) // 2]
            child = (child - 1) // 2
        best[child] = score
        return filled + 1
    if score > best[0]:
        parent = 0
        while 2 * parent + 1 < filled:
            child = 2 * parent + 1
            if child + 1 < filled and best[child + 1] < best[child]:
                child += 1
            if best[child] >= score:
                break
            best[parent] = best[child]
            parent = child
        best[parent] = score
    return filled
