"""Document ids as packed UTF-8, and the hash table that finds their rows."""

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


def pack_ids(ids: Sequence[str]) -> Ragged:
    """Check a batch of ids and pack it.

    Raises:
        InvalidId: not a sequence of str, an id empty or over 128 bytes of UTF-8, not encodable, or given twice.
    """
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise InvalidId(f"ids must be a sequence of str, not {type(ids).__name__}")
    try:
        text = "".join(ids)
        encoded = text.encode()
    except (TypeError, UnicodeEncodeError):
        raise InvalidId(_what_is_wrong(ids)) from None
    of_id = len if len(encoded) == len(text) else _bytes_of
    lengths = np.fromiter(map(of_id, ids), np.int64, len(ids))
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= ID_BYTES_MAX:
        raise InvalidId(_what_is_wrong(ids))
    # Memory of our own that may be written: compiled code would have to be compiled again for read-only arrays.
    packed = ragged(lengths, np.frombuffer(bytearray(encoded), np.uint8))
    repeated = put_rows(new_table(len(packed)), packed.flat, packed.offsets, 0, len(packed))
    if repeated >= 0:
        name = packed.row(repeated).tobytes().decode()
        raise InvalidId(f"ids must differ within a batch; {name!r} is given {list(ids).count(name)} times")
    return packed


def _bytes_of(text: str) -> int:
    return len(text.encode())


def _what_is_wrong(ids: Sequence[str]) -> str:
    """Return what is wrong with the first id that is wrong by itself."""
    for position, text in enumerate(ids):
        if not isinstance(text, str):
            return f"ids[{position}] must be str, not {type(text).__name__}"
        try:
            length = _bytes_of(text)
        except UnicodeEncodeError:
            return f"ids[{position}] is not valid Unicode text"
        if not 1 <= length <= ID_BYTES_MAX:
            return f"ids[{position}] must have 1..{ID_BYTES_MAX} bytes of UTF-8, not {length}"
    raise AssertionError("an id was refused that is right")


def new_table(capacity: int) -> Slots:
    """Return an open-addressing table with room for this many row numbers: a power of two of slots, -1 where free."""
    return np.full(1 << max(3, (2 * capacity - 1).bit_length()), -1, np.int32)


def build_table(flat: Bytes, offsets: Numbers) -> Slots:
    """Return the table of all rows; their ids are distinct."""
    slots = new_table(len(offsets) - 1)
    put_rows(slots, flat, offsets, 0, len(offsets) - 1)
    return slots


@compiled
def put_rows(slots: Slots, flat: Bytes, offsets: Numbers, begin: int, end: int) -> int:
    """Put rows begin..end - 1 into a table; a row replaces an earlier one of the same id.

    Returns:
        The last row that replaced another, -1 if none did.
    """
    last, replaced = len(slots) - 1, -1
    for row in range(begin, end):
        slot = _hash(flat, offsets[row], offsets[row + 1]) & last
        while slots[slot] >= 0:
            other = slots[slot]
            if _equal(flat, offsets[other], offsets[other + 1], flat, offsets[row], offsets[row + 1]):
                replaced = row
                break
            slot = (slot + 1) & last
        slots[slot] = row
    return replaced


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
