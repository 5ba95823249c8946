"""Sets of rows as bits: u64 words, row r is bit r % 64 of word r // 64. Published words are never changed."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]


def pack(selected: NDArray[np.bool_]) -> Words:
    """Return the words of a row mask; bits behind the last row are 0."""
    packed = np.zeros(-(-len(selected) // 64) * 8, np.uint8)
    packed[: -(-len(selected) // 8)] = np.packbits(selected, bitorder="little")
    return packed.view(np.uint64)


def rows_of(words: Words, count: int) -> NDArray[np.int64]:
    """Return the rows among the first `count` whose bit is set, ascending."""
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), count=count, bitorder="little"))


def contains(words: Words, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each row whether its bit is set."""
    return np.asarray(words[rows >> 6] & _bit(rows) != 0)


def without(words: Words, rows: NDArray[np.int64]) -> Words:
    """Return a copy of the words with these rows' bits cleared."""
    changed = words.copy()
    np.bitwise_and.at(changed, rows >> 6, ~_bit(rows))
    return changed


def with_rows(words: Words, rows: NDArray[np.int64]) -> Words:
    """Return a copy of the words with these rows' bits set."""
    changed = words.copy()
    np.bitwise_or.at(changed, rows >> 6, _bit(rows))
    return changed


def count(words: Words) -> int:
    """Return how many bits are set."""
    return int(np.bitwise_count(words).sum())


def _bit(rows: NDArray[np.int64]) -> Words:
    return np.uint64(1) << (rows & 63).astype(np.uint64)
