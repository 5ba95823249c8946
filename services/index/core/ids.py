"""Document ids as packed UTF-8, and the hash table that finds their rows."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.index.core.compiled import compiled, inlined
from services.index.core.errors import InvalidId
from services.index.core.limits import ID_BYTES_MAX
from services.index.core.ragged import Ragged, ragged

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Slots = NDArray[np.int32]


def pack(ids: Sequence[str]) -> Ragged:
    """Check a batch of ids and pack it.

    Raises:
        InvalidId: not a sequence of str, an id empty or over 128 bytes of UTF-8, not encodable, or given twice.
    """
    if isinstance(ids, str):
        raise InvalidId("ids must be a sequence of str, not one str")
    encoded = [_encoded(position, text) for position, text in enumerate(ids)]
    if len(set(encoded)) < len(encoded):
        name, times = Counter(encoded).most_common(1)[0]
        raise InvalidId(f"ids must differ within a batch; {name.decode()!r} is given {times} times")
    return ragged([len(name) for name in encoded], np.frombuffer(bytearray(b"".join(encoded)), np.uint8))


def _encoded(position: int, text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidId(f"ids[{position}] must be str, not {type(text).__name__}")
    try:
        name = text.encode()
    except UnicodeEncodeError:
        raise InvalidId(f"ids[{position}] is not valid Unicode text") from None
    if not 1 <= len(name) <= ID_BYTES_MAX:
        raise InvalidId(f"ids[{position}] must have 1..{ID_BYTES_MAX} bytes of UTF-8, not {len(name)}")
    return name


@compiled
def build_table(flat: Bytes, offsets: Numbers) -> Slots:
    """Return an open-addressing table of row numbers over distinct ids: a power of two of slots, -1 where free."""
    size = 8
    while size < 2 * (len(offsets) - 1):
        size *= 2
    slots = np.full(size, -1, np.int32)
    for row in range(len(offsets) - 1):
        slot = _hash(flat, offsets[row], offsets[row + 1]) & (size - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = row
    return slots


@compiled
def find_rows(slots: Slots, flat: Bytes, offsets: Numbers, wanted: Bytes, wanted_offsets: Numbers) -> Numbers:
    """Return the row of every wanted id, -1 where the table has none."""
    found = np.full(len(wanted_offsets) - 1, -1, np.int64)
    last = len(slots) - 1
    for i in range(len(found)):
        begin, end = wanted_offsets[i], wanted_offsets[i + 1]
        slot = _hash(wanted, begin, end) & last
        while slots[slot] >= 0:
            row = slots[slot]
            if _equal(flat, offsets[row], offsets[row + 1], wanted, begin, end):
                found[i] = row
                break
            slot = (slot + 1) & last
    return found


@inlined
def _hash(flat: Bytes, begin: int, end: int) -> int:
    """FNV-1a, 64 bit; its high bits are folded in because the table uses the low ones."""
    value = np.uint64(0xCBF29CE484222325)
    for i in range(begin, end):
        value = (value ^ np.uint64(flat[i])) * np.uint64(0x100000001B3)
    return int((value ^ (value >> np.uint64(32))) & np.uint64(0x7FFFFFFF))


@inlined
def _equal(left: Bytes, begin: int, end: int, right: Bytes, right_begin: int, right_end: int) -> bool:
    if end - begin != right_end - right_begin:
        return False
    for i in range(end - begin):  # noqa: SIM110 - numba compiles the loop, not the generator
        if left[begin + i] != right[right_begin + i]:
            return False
    return True
