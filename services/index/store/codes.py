"""Reads the codes of many bodies at once, as an engine takes them."""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.index.core.compiled import compiled, inlined
from services.index.store.entry import BODY_FORMAT, decode_body

Bytes: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint16]
Numbers: TypeAlias = NDArray[np.int64]

_ABSENT: Final = -1


def decode_codes(bodies: Sequence[bytes], generation: int) -> tuple[NDArray[np.bool_], Numbers, Words, Words]:
    """Return the codes of one generation.

    Args:
        bodies: n encoded bodies; see entry.encode_body.
        generation: Whose codes.

    Returns:
        present: bool [n], whether the body has such a code.
        lengths: int64 [m], one per code that is present.
        latents: uint16 [sum of lengths], code after code.
        weights: uint16 [sum of lengths].

    Raises:
        WrongState, CorruptRecord: as decode_body, for the first body that it refuses.
    """
    offsets = np.zeros(len(bodies) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)), out=offsets[1:])
    flat = np.frombuffer(bytearray().join(bodies), np.uint8)
    starts = np.empty(len(bodies), np.int64)
    lengths = np.empty(len(bodies), np.int64)
    wrong = _find_codes(flat, offsets, generation, BODY_FORMAT, starts, lengths)
    if wrong >= 0:
        decode_body(bodies[wrong])
        raise AssertionError("a body was refused that is right")
    present = lengths != _ABSENT
    starts, lengths = starts[present], lengths[present]
    latents = np.empty(lengths.sum(), np.uint16)
    weights = np.empty(lengths.sum(), np.uint16)
    _copy_codes(flat, starts, lengths, latents, weights)
    return present, lengths, latents, weights


@inlined
def _number(flat: Bytes, at: int, size: int) -> int:
    """Return a big-endian integer."""
    value = 0
    for i in range(at, at + size):
        value = value << 8 | flat[i]
    return value


@compiled
def _find_codes(
    flat: Bytes, offsets: Numbers, generation: int, format_max: int, starts: Numbers, lengths: Numbers
) -> int:
    """Note where the code of each body begins and how many latents it has; return the first wrong body, or -1."""
    for row in range(len(starts)):
        at, end = offsets[row], offsets[row + 1]
        starts[row], lengths[row] = 0, _ABSENT
        if end - at < 8 or flat[at] > format_max:
            return row
        codes = flat[at + 1]
        at += 8 + 2 * _number(flat, at + 2, 2) + _number(flat, at + 4, 4)
        for _ in range(codes):
            if end - at < 6:
                return row
            length = _number(flat, at + 4, 2)
            if _number(flat, at, 4) == generation:
                starts[row], lengths[row] = at + 6, length
            at += 6 + 4 * length
        if at != end:
            return row
    return -1


@compiled
def _copy_codes(flat: Bytes, starts: Numbers, lengths: Numbers, latents: Words, weights: Words) -> None:
    to = 0
    for row in range(len(starts)):
        begin, length = starts[row], lengths[row]
        for i in range(length):
            at = begin + 2 * i
            latents[to + i] = flat[at] | flat[at + 1] << 8
            at += 2 * length
            weights[to + i] = flat[at] | flat[at + 1] << 8
        to += length
