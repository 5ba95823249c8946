"""The best hits so far, over all segments: a heap with the worst on top, by score descending, then id ascending."""

from typing import NamedTuple

import numpy as np

from services.index.core.compiled import borrowing, compiled
from services.index.core.limits import ID_BYTES_MAX
from services.index.core.shapes import F64, I64, U8, U64

_WORD = 8


class Hits(NamedTuple):
    """Room for top_n hits, and for one that asks to be let in.

    heap: int64 [top_n + 1], slots; the first `filled` are hits. With top_n of them these form a heap, and the last slot
    is free.
    scores: float64 [top_n + 1], by slot. rows: int64 [top_n + 1], the row in the segment being searched, or -1 for a
    hit that carries its id: lengths, int64 [top_n + 1], and words, uint64 [top_n + 1, 16], eight bytes each that
    compare as the text does. Ids are fetched only where scores tie, or when the segment has been searched: that saves
    cache misses for rows that do not stay.
    """

    heap: I64
    scores: F64
    rows: I64
    words: U64
    lengths: I64


class PackedIds(NamedTuple):
    """Packed ids of rows: row r has flat[offsets[r]:offsets[r + 1]]."""

    flat: U8
    offsets: I64


def room(top_n: int) -> Hits:
    """Return room for top_n hits."""
    slots = top_n + 1
    words = np.empty((slots, ID_BYTES_MAX // _WORD), np.uint64)
    return Hits(np.empty(slots, np.int64), np.empty(slots), np.empty(slots, np.int64), words, np.empty(slots, np.int64))


@borrowing
def missing(hits: Hits, filled: int) -> int:
    """Return how many more hits there is room for."""
    return len(hits.heap) - 1 - filled


@borrowing
def threshold(hits: Hits, filled: int, floor: float) -> float:
    """Return the least score that can still be among the best, ties included."""
    return floor if missing(hits, filled) else max(floor, hits.scores[hits.heap[0]])


@borrowing
def offer(hits: Hits, filled: int, score: float, row: int, ids: PackedIds) -> int:
    """Take a row in if it is among the best; return how many there are now."""
    heap, top_n = hits.heap, len(hits.heap) - 1
    if filled < top_n:
        heap[filled], hits.scores[filled], hits.rows[filled] = filled, score, row
        filled += 1
        if filled == top_n:
            heap[top_n] = top_n
            for place in range(top_n // 2 - 1, -1, -1):
                _sink(hits, ids, place, heap[place], top_n)
        return filled
    slot, worst = heap[top_n], heap[0]
    if score < hits.scores[worst]:
        return filled
    hits.scores[slot], hits.rows[slot] = score, row
    if score > hits.scores[worst] or _later(hits, ids, worst, slot):
        heap[top_n] = worst
        _sink(hits, ids, 0, slot, top_n)
    return filled


@borrowing
def carry_ids(hits: Hits, filled: int, ids: PackedIds) -> None:
    """Let the hits of this segment carry their ids, before another segment is searched."""
    for place in range(filled):
        _carry(hits, ids, hits.heap[place])


def ids_of(hits: Hits, filled: int) -> tuple[I64, U8]:
    """Return the ids of hits that carry theirs, in the heap's order: offsets [filled + 1] and bytes."""
    return _ids_of(hits.heap[:filled], hits.words, hits.lengths)


@compiled
def _ids_of(slots: I64, words: U64, lengths: I64) -> tuple[I64, U8]:
    offsets = np.zeros(len(slots) + 1, np.int64)
    for place in range(len(slots)):
        offsets[place + 1] = offsets[place] + lengths[slots[place]]
    flat = np.empty(offsets[-1], np.uint8)
    for place in range(len(slots)):
        begin, slot = offsets[place], slots[place]
        for i in range(lengths[slot]):
            flat[begin + i] = np.uint8((words[slot, i // _WORD] >> _shift(i)) & np.uint64(0xFF))
    return offsets, flat


@borrowing
def _sink(hits: Hits, ids: PackedIds, place: int, slot: int, filled: int) -> None:
    """Put a slot at a place of a heap of `filled` slots and let it sink."""
    heap, scores = hits.heap, hits.scores
    score = scores[slot]
    while 2 * place + 1 < filled:
        child = 2 * place + 1
        below = heap[child]
        if child + 1 < filled:
            other = heap[child + 1]
            if scores[other] < scores[below] or (scores[other] == scores[below] and _later(hits, ids, other, below)):
                child, below = child + 1, other
        if score < scores[below] or (score == scores[below] and _later(hits, ids, slot, below)):
            break
        heap[place] = below
        place = child
    heap[place] = slot


@borrowing
def _later(hits: Hits, ids: PackedIds, slot: int, other: int) -> bool:
    """Tell whether the id in one slot comes after the id in the other."""
    _carry(hits, ids, slot)
    _carry(hits, ids, other)
    words, length, other_length = hits.words, hits.lengths[slot], hits.lengths[other]
    for i in range((min(length, other_length) + _WORD - 1) // _WORD):
        if words[slot, i] != words[other, i]:
            return bool(words[slot, i] > words[other, i])
    return bool(length > other_length)


@borrowing
def _carry(hits: Hits, ids: PackedIds, slot: int) -> None:
    """Let the hit in a slot carry its id."""
    row = hits.rows[slot]
    if row < 0:
        return
    begin, length = ids.offsets[row], ids.offsets[row + 1] - ids.offsets[row]
    hits.lengths[slot], hits.rows[slot] = length, -1
    for i in range(0, length, _WORD):
        word = np.uint64(0)
        for j in range(i, min(i + _WORD, length)):
            word |= np.uint64(ids.flat[begin + j]) << _shift(j)
        hits.words[slot, i // _WORD] = word


@borrowing
def _shift(byte: int) -> np.uint64:
    """Return by how many bits a byte of the text lies above the low end of its word."""
    return np.uint64(56 - 8 * (byte % _WORD))
