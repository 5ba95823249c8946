"""The best hits so far, over all segments: a heap with the worst on top, by score descending, then id ascending."""

from typing import NamedTuple

import numpy as np

from services.index.core.compiled import compiled, inlined
from services.index.core.limits import ID_BYTES_MAX
from services.index.core.shapes import F64, I64, U8


class Hits(NamedTuple):
    """Room for top_n hits, which carry their ids, so that hits of different segments compare.

    heap: int64 [top_n], slots; the first `filled` form the heap. scores: float64 [top_n], by slot.
    names, lengths: uint8 [top_n, 128] and int64 [top_n], the bytes of the id, by slot.
    """

    heap: I64
    scores: F64
    names: U8
    lengths: I64


class Names(NamedTuple):
    """Packed ids of rows: row r has flat[offsets[r]:offsets[r + 1]]."""

    flat: U8
    offsets: I64


def room(top_n: int) -> Hits:
    """Return room for top_n hits."""
    names = np.empty((top_n, ID_BYTES_MAX), np.uint8)
    return Hits(np.empty(top_n, np.int64), np.empty(top_n), names, np.empty(top_n, np.int64))


@inlined
def threshold(hits: Hits, filled: int, floor: float) -> float:
    """Return the least score that can still be among the best, ties included."""
    return max(floor, hits.scores[hits.heap[0]]) if filled == len(hits.heap) else floor


@inlined
def offer(hits: Hits, filled: int, score: float, names: Names, row: int) -> int:
    """Take a row in if it is among the best; return how many there are now."""
    heap, begin, end = hits.heap, names.offsets[row], names.offsets[row + 1]
    if filled < len(heap):
        slot = filled
        filled += 1
        place = slot
        _write(hits, slot, score, names.flat, begin, end)
        while place > 0:
            parent = (place - 1) // 2
            if not _worse(hits, slot, heap[parent]):
                break
            heap[place] = heap[parent]
            place = parent
        heap[place] = slot
        return filled
    slot = heap[0]
    if score < hits.scores[slot] or (score == hits.scores[slot] and not _precedes(names.flat, begin, end, hits, slot)):
        return filled
    _write(hits, slot, score, names.flat, begin, end)
    place = 0
    while 2 * place + 1 < filled:
        child = 2 * place + 1
        if child + 1 < filled and _worse(hits, heap[child + 1], heap[child]):
            child += 1
        if not _worse(hits, heap[child], slot):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = slot
    return filled


@compiled
def ranked(hits: Hits, filled: int) -> tuple[I64, I64, U8]:
    """Empty the heap: return slots best first, and their ids packed as offsets [filled + 1] and bytes."""
    order, heap = np.empty(filled, np.int64), hits.heap
    for last in range(filled - 1, -1, -1):
        order[last] = heap[0]
        slot, place = heap[last], 0
        while 2 * place + 1 < last:
            child = 2 * place + 1
            if child + 1 < last and _worse(hits, heap[child + 1], heap[child]):
                child += 1
            if not _worse(hits, heap[child], slot):
                break
            heap[place] = heap[child]
            place = child
        heap[place] = slot
    offsets = np.zeros(filled + 1, np.int64)
    for i in range(filled):
        offsets[i + 1] = offsets[i] + hits.lengths[order[i]]
    flat = np.empty(offsets[filled], np.uint8)
    for i in range(filled):
        flat[offsets[i] : offsets[i + 1]] = hits.names[order[i], : hits.lengths[order[i]]]
    return order, offsets, flat


@inlined
def _write(hits: Hits, slot: int, score: float, flat: U8, begin: int, end: int) -> None:
    hits.scores[slot], hits.lengths[slot] = score, end - begin
    hits.names[slot, : end - begin] = flat[begin:end]


@inlined
def _worse(hits: Hits, slot: int, other: int) -> bool:
    """Tell whether the hit in one slot comes after the hit in the other."""
    if hits.scores[slot] != hits.scores[other]:
        return bool(hits.scores[slot] < hits.scores[other])
    return _precedes(hits.names[other], 0, hits.lengths[other], hits, slot)


@inlined
def _precedes(flat: U8, begin: int, end: int, hits: Hits, slot: int) -> bool:
    """Tell whether the id flat[begin:end] comes before the id in a slot."""
    length = hits.lengths[slot]
    for i in range(min(end - begin, length)):
        if flat[begin + i] != hits.names[slot, i]:
            return bool(flat[begin + i] < hits.names[slot, i])
    return bool(end - begin < length)
