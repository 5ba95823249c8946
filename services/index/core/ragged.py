"""Rows of different lengths in flat arrays: ids as bytes, keywords as term numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.index.core.compiled import compiled


@dataclass(frozen=True, slots=True)
class Ragged:
    """n rows; row i is flat[offsets[i]:offsets[i + 1]], with offsets int64 [n + 1] from 0."""

    flat: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> NDArray[Any]:
        """Return one row, a view."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    def take(self, selected: NDArray[np.int64]) -> "Ragged":
        """Return the selected rows in that order, copied."""
        return gather([(self, selected)])

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.flat.nbytes + self.offsets.nbytes


def ragged(lengths: Sequence[int] | NDArray[np.int64], flat: NDArray[Any]) -> Ragged:
    """Make rows of the given lengths out of a flat array."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(flat, offsets)


def gather(sources: Sequence[tuple[Ragged, NDArray[np.int64]]]) -> Ragged:
    """Return the selected rows of all sources, one source after the other, copied once and without the GIL."""
    ends = np.cumsum([len(selected) for _, selected in sources])
    offsets = np.zeros(ends[-1] + 1, np.int64)
    for (source, selected), end in zip(sources, ends, strict=True):
        _measure(source.offsets, selected, offsets, end - len(selected))
    flat = np.empty(offsets[-1], sources[0][0].flat.dtype)
    for (source, selected), end in zip(sources, ends, strict=True):
        _copy(source.flat, source.offsets, selected, flat, offsets, end - len(selected))
    return Ragged(flat, offsets)


class GrowingRagged:
    """Append-only rows for one writer; views taken earlier stay valid while it writes behind them."""

    def __init__(self, capacity: int, dtype: type[np.generic]) -> None:
        self._flat = np.empty(capacity, dtype)
        self._offsets = np.zeros(capacity + 1, np.int64)

    def write(self, at: int, rows: Ragged) -> None:
        """Write rows at row `at`, the first one that no view shows."""
        begin = int(self._offsets[at])
        end = begin + len(rows.flat)
        if end > len(self._flat):
            grown = np.empty(max(end, 2 * len(self._flat)), self._flat.dtype)
            grown[:begin] = self._flat[:begin]
            self._flat = grown
        self._flat[begin:end] = rows.flat
        self._offsets[at + 1 : at + 1 + len(rows)] = rows.offsets[1:] + begin

    def view(self, length: int) -> Ragged:
        """Return the first `length` rows without copying."""
        return Ragged(self._flat[: self._offsets[length]], self._offsets[: length + 1])

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self._flat.nbytes + self._offsets.nbytes


@compiled
def _measure(
    source_offsets: NDArray[np.int64], selected: NDArray[np.int64], offsets: NDArray[np.int64], at: int
) -> None:
    """Write the offsets behind row `at` for the selected rows."""
    for i in range(len(selected)):
        row = selected[i]
        offsets[at + i + 1] = offsets[at + i] + source_offsets[row + 1] - source_offsets[row]


@compiled
def _copy(
    source: NDArray[Any],
    source_offsets: NDArray[np.int64],
    selected: NDArray[np.int64],
    flat: NDArray[Any],
    offsets: NDArray[np.int64],
    at: int,
) -> None:
    """Copy the selected rows to row `at` and on."""
    for i in range(len(selected)):
        begin, to = source_offsets[selected[i]], offsets[at + i]
        for j in range(offsets[at + i + 1] - to):
            flat[to + j] = source[begin + j]
