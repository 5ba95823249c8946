"""A sealed, immutable segment: rows in code order and everything that search derives from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.index.core import ids, kernels
from services.index.core.bits import Words
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows

ROWS_MAX = 1 << 22
"""Rows of one segment, so that starts of postings fit u32 at every k_max."""
_ORDER_LATENTS = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows plus postings.

    Codes are as good as cluster labels: sorted by their leading latents, similar documents lie side by side, so a
    query's postings fall on few cache lines.
    """

    rows: Rows
    squares: NDArray[np.int64]
    """Σd̂² of each prefix, [levels, n]."""
    starts: NDArray[np.uint32]
    posting_rows: NDArray[np.uint16]
    posting_weights: NDArray[np.uint16]
    slots: NDArray[np.int32]
    """Hash table from id to row; ids are distinct."""
    least_squares: tuple[int, ...]
    """Smallest square at each level that is not 0; 1 when all are."""
    greatest_squares: tuple[int, ...]

    def find(self, wanted: Ragged) -> NDArray[np.int64]:
        """Return the row of each wanted id, -1 where the segment has none."""
        return ids.find_rows(self.slots, self.rows.ids.flat, self.rows.ids.offsets, wanted.flat, wanted.offsets)

    def derived(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a snapshot stores besides the rows, by name, always the same ones."""
        return {
            "squares": self.squares,
            "starts": self.starts,
            "posting-rows": self.posting_rows,
            "posting-weights": self.posting_weights,
        }

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        derived = (self.squares, self.starts, self.posting_rows, self.posting_weights, self.slots)
        return self.rows.nbytes + sum(array.nbytes for array in derived)


@dataclass(frozen=True, slots=True)
class Part:
    """A segment and the rows in it that are not deleted; a new Part is made for every change."""

    segment: Segment
    alive: Words
    documents: int
    """Number of alive rows."""


def build(rows: Rows, hidden_dim: int, levels: tuple[int, ...]) -> Segment:
    """Sort rows (at least one, ids distinct) into code order and derive the rest."""
    leading = [rows.latents[:, rank] for rank in range(min(_ORDER_LATENTS, rows.latents.shape[1]))]
    ordered = rows.take(np.lexsort(leading[::-1]))
    steps = np.array(levels, np.int64)
    starts, posting_rows, posting_weights = kernels.build_postings(ordered.latents, ordered.weights, steps, hidden_dim)
    derived: dict[str, NDArray[Any]] = {
        "squares": kernels.prefix_squares(ordered.weights, steps),
        "starts": starts,
        "posting-rows": posting_rows,
        "posting-weights": posting_weights,
    }
    return assemble(ordered, derived, hidden_dim, levels)


def assemble(rows: Rows, derived: Mapping[str, NDArray[Any]], hidden_dim: int, levels: tuple[int, ...]) -> Segment:
    """Make a segment from its stored arrays."""
    squares = derived["squares"]
    least = tuple(int(np.min(level, initial=1 << 62, where=level > 0)) for level in squares)
    return Segment(
        rows,
        squares,
        derived["starts"],
        derived["posting-rows"],
        derived["posting-weights"],
        ids.build_table(rows.ids.flat, rows.ids.offsets),
        tuple(1 if square == 1 << 62 else square for square in least),
        tuple(int(level.max()) for level in squares),
    )
