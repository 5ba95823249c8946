"""Listing documents by id: the least ids behind a given one, found in one pass over the packed ids."""

from itertools import pairwise
from operator import itemgetter
from typing import Final, NamedTuple

import numpy as np

from services.index.core import bits, ragged
from services.index.core.bits import Words
from services.index.core.columns import gather_arrays
from services.index.core.compiled import compiled, inlined
from services.index.core.ragged import Ragged
from services.index.core.scoring import is_allowed
from services.index.core.search import Allowed
from services.index.core.shapes import I64, U8
from services.index.core.writer import State

_ROOM: Final = 2
"""So many times the wanted rows are collected before the least of them are kept: few comparisons for each row, however
the rows are ordered and however many are wanted."""
_ID: Final = itemgetter(0)


class Scanned(NamedTuple):
    """A document of a listing."""

    id: str
    version: int
    partition: int


def scan(state: State, allowed: Allowed, limit: int, after: bytes) -> list[Scanned]:
    """Return the allowed documents with the least ids > after, at most `limit`, by id ascending as UTF-8 bytes."""
    behind = np.frombuffer(bytearray(after), np.uint8)
    words = (*(of_part for of_part, _ in allowed.parts), allowed.recent)
    found = [
        (rows, _least(rows.ids.flat, rows.ids.offsets, of_rows, behind, limit))
        for (rows, _), of_rows in zip(state.sources, words, strict=True)
    ]
    ids = ragged.gather([(rows.ids, chosen) for rows, chosen in found])
    least = _least(ids.flat, ids.offsets, bits.pack(np.ones(len(ids), np.bool_)), behind, limit)
    versions = gather_arrays([(rows.versions, chosen) for rows, chosen in found])[least].tolist()
    partitions = gather_arrays([(rows.partitions, chosen) for rows, chosen in found])[least].tolist()
    listed = map(Scanned, _texts(ids.take(least)), versions, partitions)
    return sorted(listed, key=_ID)  # text compares like its UTF-8


def _texts(ids: Ragged) -> list[str]:
    flat = ids.flat.tobytes()
    return [flat[begin:end].decode() for begin, end in pairwise(ids.offsets.tolist())]


@compiled
def _least(flat: U8, offsets: I64, allowed: Words, behind: U8, limit: int) -> I64:
    """Return the allowed rows with the least ids > behind, at most `limit`, in any order; their ids differ."""
    count = len(offsets) - 1
    room = np.empty(min(_ROOM * limit, count), np.int64)
    filled, bound = 0, -1
    for row in range(count):
        if not is_allowed(allowed, row):
            continue
        begin, end = offsets[row], offsets[row + 1]
        if not _less(behind, 0, len(behind), flat, begin, end):
            continue
        if bound >= 0 and not _less(flat, begin, end, flat, offsets[bound], offsets[bound + 1]):
            continue
        if filled == len(room):
            _select(flat, offsets, room, limit)
            filled, bound = limit, room[limit - 1]
            if not _less(flat, begin, end, flat, offsets[bound], offsets[bound + 1]):
                continue
        room[filled] = row
        filled += 1
    if filled > limit:
        _select(flat, offsets, room[:filled], limit)
    return room[: min(filled, limit)]


@inlined
def _select(flat: U8, offsets: I64, rows: I64, wanted: int) -> None:
    """Move the wanted number of rows with the least ids to the front, the greatest of these last.

    Hoare's selection. Its pivots are drawn, so that no order of rows that occurs makes it slow.
    """
    low, high, drawn = 0, len(rows) - 1, np.uint64(0)
    while low < high:
        drawn = drawn * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        pivot = rows[low + np.int64(drawn >> np.uint64(33)) % (high - low + 1)]
        begin, end = offsets[pivot], offsets[pivot + 1]
        left, right = low, high
        while left <= right:
            while _less(flat, offsets[rows[left]], offsets[rows[left] + 1], flat, begin, end):
                left += 1
            while _less(flat, begin, end, flat, offsets[rows[right]], offsets[rows[right] + 1]):
                right -= 1
            if left <= right:
                rows[left], rows[right] = rows[right], rows[left]
                left, right = left + 1, right - 1
        if wanted - 1 <= right:
            high = right
        elif wanted - 1 >= left:
            low = left
        else:
            return


@inlined
def _less(left: U8, begin: int, end: int, right: U8, right_begin: int, right_end: int) -> bool:
    """Tell whether one id comes before another."""
    shorter = min(end - begin, right_end - right_begin)
    for i in range(shorter):
        if left[begin + i] != right[right_begin + i]:
            return bool(left[begin + i] < right[right_begin + i])
    return end - begin < right_end - right_begin
