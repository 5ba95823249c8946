"""The few greatest of many values. Written out, because numba takes seconds to compile a call of np.sort."""

from typing import Final

import numpy as np

from services.index.core.compiled import inlined
from services.index.core.shapes import I32, I64

_CHUNK: Final = 64
_INSERTED_MAX: Final = 64
"""So many are kept in order one by one; for more, a heap is cheaper."""


@inlined
def greatest(values: I32, wanted: int) -> I64:
    """Return where the greatest values > 0 are, at most `wanted`, greatest first."""
    if wanted > _INSERTED_MAX:
        return _greatest_many(values, wanted)
    best, found, least = np.empty(wanted, np.int64), 0, np.int32(0)
    for begin in range(0, len(values) if wanted else 0, _CHUNK):
        end = min(begin + _CHUNK, len(values))
        top = values[begin]
        for place in range(begin + 1, end):
            value = values[place]
            top = value if value > top else top
        if top <= least:
            continue
        for place in range(begin, end):
            if values[place] > least:
                at = min(found, wanted - 1)
                found = min(found + 1, wanted)
                while at > 0 and values[best[at - 1]] < values[place]:
                    best[at] = best[at - 1]
                    at -= 1
                best[at] = place
                if found == wanted:
                    least = values[best[wanted - 1]]
    return best[:found]


@inlined
def _greatest_many(values: I32, wanted: int) -> I64:
    keys, left = np.empty(len(values), np.int64), 0
    for place in range(len(values)):
        keys[left] = (np.int64(values[place]) << 32) | place
        left += int(values[place] > 0)
    heapify(keys, left)
    best = np.empty(min(wanted, left), np.int64)
    for at in range(len(best)):
        best[at] = pop(keys, left) & 0xFFFFFFFF
        left -= 1
    return best


@inlined
def heapify(keys: I64, count: int) -> None:
    """Make a heap with the greatest on top of the first `count` keys."""
    for place in range(count // 2 - 1, -1, -1):
        _sink_key(keys, place, keys[place], count)


@inlined
def pop(keys: I64, count: int) -> int:
    """Return the greatest of a heap of `count` keys, which has one less then."""
    top = keys[0]
    _sink_key(keys, 0, keys[count - 1], count - 1)
    return int(top)


@inlined
def _sink_key(keys: I64, place: int, key: int, count: int) -> None:
    while 2 * place + 1 < count:
        child = 2 * place + 1
        if child + 1 < count and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[place] = keys[child]
        place = child
    keys[place] = key
