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
        """Return the selected rows in that order."""
        return Ragged(*_gather(self.flat, self.offsets, selected))

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.flat.nbytes + self.offsets.nbytes


def ragged(lengths: Sequence[int], flat: NDArray[Any]) -> Ragged:
    """Make rows of the given lengths out of a flat array."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(flat, offsets)


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """Return the rows of all parts, one after the other."""
    starts = np.cumsum([0, *(len(part.flat) for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return Ragged(np.concatenate([part.flat for part in parts]), np.concatenate([*offsets, starts[-1:]]))


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
def _gather(
    flat: NDArray[Any], offsets: NDArray[np.int64], selected: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    taken = np.zeros(len(selected) + 1, np.int64)
    for i in range(len(selected)):
        row = selected[i]
        taken[i + 1] = taken[i] + offsets[row + 1] - offsets[row]
    gathered = np.empty(taken[-1], flat.dtype)
    for i in range(len(selected)):
        begin = offsets[selected[i]]
        for j in range(taken[i + 1] - taken[i]):
            gathered[taken[i] + j] = flat[begin + j]
    return gathered, taken
