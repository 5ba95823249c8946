"""The best hits so far, over all segments: a heap with the worst on top, by score descending, then id ascending."""

from typing import NamedTuple

import numpy as np

from services.index.core.compiled import compiled, inlined
from services.index.core.limits import ID_BYTES_MAX
from services.index.core.shapes import F64, I64, U8


class Hits(NamedTuple):
    """Room for top_n hits.

    heap: int64 [top_n], slots; the first `filled` form the heap. scores: float64 [top_n], by slot. rows: int64 [top_n],
    the row in the segment being searched, or -1 for a hit of an earlier one, which carries its id: names, lengths,
    uint8 [top_n, 128] and int64 [top_n]. Fetching ids only then saves cache misses for rows that do not stay.
    """

    heap: I64
    scores: F64
    rows: I64
    names: U8
    lengths: I64


class Names(NamedTuple):
    """Packed ids of rows: row r has flat[offsets[r]:offsets[r + 1]]."""

    flat: U8
    offsets: I64


def room(top_n: int) -> Hits:
    """Return room for top_n hits."""
    names = np.empty((top_n, ID_BYTES_MAX), np.uint8)
    heap, rows, lengths = np.empty((3, top_n), np.int64)
    return Hits(heap, np.empty(top_n), rows, names, lengths)


@inlined
def threshold(hits: Hits, filled: int, floor: float) -> float:
    """Return the least score that can still be among the best, ties included."""
    return max(floor, hits.scores[hits.heap[0]]) if filled == len(hits.heap) else floor


@inlined
def offer(hits: Hits, filled: int, score: float, names: Names, row: int) -> int:
    """Take a row in if it is among the best; return how many there are now."""
    heap, scores = hits.heap, hits.scores
    if filled < len(heap):
        slot, place = filled, filled
        scores[slot], hits.rows[slot] = score, row
        while place > 0:
            above = heap[(place - 1) // 2]
            if scores[above] < score or (scores[above] == score and not _later(hits, names, slot, above)):
                break
            heap[place] = above
            place = (place - 1) // 2
        heap[place] = slot
        return filled + 1
    slot = heap[0]
    if score < scores[slot] or (score == scores[slot] and not _precedes(hits, names, row, slot)):
        return filled
    scores[slot], hits.rows[slot] = score, row
    _sink(hits, names, slot, filled)
    return filled


@inlined
def settle(hits: Hits, filled: int, names: Names) -> None:
    """Let the hits of this segment carry their ids, before another segment is searched."""
    for slot in range(filled):
        _carry(hits, names, slot)


@compiled
def ranked(hits: Hits, filled: int) -> tuple[I64, I64, U8]:
    """Empty the heap of settled hits: return slots best first, and their ids, offsets [filled + 1] and bytes."""
    nothing = Names(hits.names[0], hits.lengths)
    order, offsets = np.empty(filled, np.int64), np.zeros(filled + 1, np.int64)
    for last in range(filled - 1, -1, -1):
        order[last] = hits.heap[0]
        _sink(hits, nothing, hits.heap[last], last)
    for i in range(filled):
        offsets[i + 1] = offsets[i] + hits.lengths[order[i]]
    flat = np.empty(offsets[filled], np.uint8)
    for i in range(filled):
        for j in range(hits.lengths[order[i]]):
            flat[offsets[i] + j] = hits.names[order[i], j]
    return order, offsets, flat


@inlined
def _sink(hits: Hits, names: Names, slot: int, filled: int) -> None:
    """Put a slot at the root of a heap of `filled` slots and let it sink to its place."""
    heap, scores, place = hits.heap, hits.scores, 0
    score = scores[slot]
    while 2 * place + 1 < filled:
        child = 2 * place + 1
        below = heap[child]
        if child + 1 < filled:
            other = heap[child + 1]
            if scores[other] < scores[below] or (scores[other] == scores[below] and _later(hits, names, other, below)):
                child, below = child + 1, other
        if score < scores[below] or (score == scores[below] and _later(hits, names, slot, below)):
            break
        heap[place] = below
        place = child
    heap[place] = slot


@inlined
def _carry(hits: Hits, names: Names, slot: int) -> None:
    """Let the hit in a slot carry its id."""
    row = hits.rows[slot]
    if row >= 0:
        begin = names.offsets[row]
        hits.lengths[slot], hits.rows[slot] = names.offsets[row + 1] - begin, -1
        for i in range(hits.lengths[slot]):
            hits.names[slot, i] = names.flat[begin + i]


@inlined
def _later(hits: Hits, names: Names, slot: int, other: int) -> bool:
    """Tell whether the id in one slot comes after the id in the other."""
    _carry(hits, names, slot)
    _carry(hits, names, other)
    ids, length, other_length = hits.names, hits.lengths[slot], hits.lengths[other]
    for i in range(min(length, other_length)):
        if ids[slot, i] != ids[other, i]:
            return bool(ids[slot, i] > ids[other, i])
    return bool(length > other_length)


@inlined
def _precedes(hits: Hits, names: Names, row: int, slot: int) -> bool:
    """Tell whether a row's id comes before the id in a slot."""
    _carry(hits, names, slot)
    begin, length = names.offsets[row], names.offsets[row + 1] - names.offsets[row]
    for i in range(min(length, hits.lengths[slot])):
        if names.flat[begin + i] != hits.names[slot, i]:
            return bool(names.flat[begin + i] < hits.names[slot, i])
    return bool(length < hits.lengths[slot])
