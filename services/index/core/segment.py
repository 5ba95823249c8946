"""A sealed, immutable segment: rows in code order and everything that search derives from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, ids, planner, postings
from services.index.core.bits import Words
from services.index.core.common import Common, build_common
from services.index.core.planner import Memory, Sealed
from services.index.core.postings import Blocks, Norms, Postings
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows
from services.index.core.shapes import I32

ROWS_MAX = 1 << 22
"""Rows of one segment, so that blocks fit u16 and starts of postings fit u32 at every k_max."""
_ORDER_LATENTS = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows, and what kernels read of them.

    Codes are as good as cluster labels: sorted by their leading latents, similar documents lie side by side, so a
    query's postings fall on few cache lines and its best documents into few blocks.
    """

    rows: Rows
    sealed: Sealed
    slots: I32
    """Hash table from id to row; ids are distinct."""
    memory: Memory
    """What the planner learns; the only thing that changes."""

    def find(self, wanted: Ragged) -> NDArray[np.int64]:
        """Return the row of each wanted id, -1 where the segment has none."""
        return ids.find_rows(self.slots, self.rows.ids.flat, self.rows.ids.offsets, wanted.flat, wanted.offsets)

    def __len__(self) -> int:
        return len(self.rows)

    def derived(self) -> dict[str, NDArray[Any]]:
        """Return what `assemble` needs besides the rows, by name."""
        sealed = self.sealed
        return {
            "posting-starts": sealed.postings.starts,
            "posting-rows": sealed.postings.rows,
            "posting-weights": sealed.postings.weights,
            "posting-units": sealed.postings.units,
            "posting-lengths": sealed.lengths,
            "common-places": sealed.common.places,
            "common-lines": sealed.common.lines,
            "block-starts": sealed.blocks.starts,
            "block-numbers": sealed.blocks.numbers,
            "block-rises": sealed.blocks.rises,
            "norms": sealed.norms.rows,
            "block-norms": sealed.norms.blocks,
            "greatest-norms": sealed.norms.greatest,
            "least-norms": sealed.norms.least,
            "slots": self.slots,
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.rows.nbytes + sum(array.nbytes for array in self.derived().values())


@dataclass(frozen=True, slots=True)
class Part:
    """A segment and the rows in it that are not deleted; a new Part is made for every change."""

    segment: Segment
    alive: Words
    documents: int
    """Number of alive rows."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.segment.nbytes + self.alive.nbytes

    def without(self, rows: NDArray[np.int64]) -> "Part":
        """Return the part with these of its rows deleted; itself where all of them were.

        All bits are copied: at most 512 KiB, in about 10 microseconds.
        """
        gone = rows[bits.contains(self.alive, rows)]
        if not len(gone):
            return self
        return Part(self.segment, bits.without(self.alive, gone), self.documents - len(gone))


def whole(segment: Segment) -> Part:
    """Return a segment of which no row is deleted."""
    return Part(segment, bits.pack(np.ones(len(segment), np.bool_)), len(segment))


def build(rows: Rows, hidden_dim: int, levels: tuple[int, ...]) -> Segment:
    """Sort rows (at least one, ids distinct) into code order and derive the rest."""
    leading = [rows.latents[:, rank] for rank in range(min(_ORDER_LATENTS, rows.latents.shape[1]))]
    ordered = rows.take(np.lexsort(leading[::-1]))
    del rows, leading  # a copy of all rows, which the caller of a merge no longer holds either
    steps = np.array(levels, np.int64)
    units = postings.latent_units(ordered.latents, ordered.weights, hidden_dim)
    by_latent = postings.build_postings(ordered.latents, ordered.weights, steps, units)
    lengths = postings.lengths(by_latent.starts, hidden_dim, len(levels))
    sealed = Sealed(
        by_latent,
        lengths,
        build_common(ordered.latents, ordered.weights, steps, units, lengths),
        postings.build_blocks(ordered.latents, ordered.weights, steps, units),
        postings.build_norms(ordered.weights, steps),
    )
    slots = ids.build_table(ordered.ids.flat, ordered.ids.offsets)
    return Segment(ordered, sealed, slots, planner.memory(len(levels)))


def assemble(rows: Rows, derived: Mapping[str, NDArray[Any]]) -> Segment:
    """Make a segment from its rows and what `Segment.derived` returned of them."""
    by_latent = Postings(*(derived[f"posting-{name}"] for name in ("starts", "rows", "weights", "units")))
    blocks = Blocks(*(derived[f"block-{name}"] for name in ("starts", "numbers", "rises")))
    norms = Norms(*(derived[name] for name in ("norms", "block-norms", "greatest-norms", "least-norms")))
    common = Common(derived["common-places"], derived["common-lines"])
    sealed = Sealed(by_latent, derived["posting-lengths"], common, blocks, norms)
    return Segment(rows, sealed, derived["slots"], planner.memory(len(norms.greatest)))
