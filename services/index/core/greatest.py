"""The few greatest of many values."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.index.core.compiled import inlined
from services.index.core.shapes import I64

_CHUNK: Final = 64
_FEW: Final = 64
"""So many are kept in order one by one; to keep more, sorting is cheaper."""


@inlined
def greatest(values: NDArray[Any], wanted: int) -> I64:
    """Return where the greatest values > 0 are, at most `wanted`, greatest first."""
    if wanted > _FEW:
        order = np.argsort(values)[::-1][:wanted]
        return order[values[order] > 0]
    best, found = np.empty(wanted, np.int64), 0
    least = values.dtype.type(0)
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
