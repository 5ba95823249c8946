"""Documents as rows of arrays: the one shape in which batches, the memtable and segments hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.index.core import columns, ragged
from services.index.core.columns import Column
from services.index.core.ragged import Ragged


@dataclass(frozen=True, slots=True)
class Rows:
    """n documents.

    latents, weights: u16 [n, k_max], codes as in `code.Codes`. ids: n packed ids. partitions: u16 [n]. versions: u64
    [n], the caller's. columns: one for each declared field.
    """

    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]
    ids: Ragged
    partitions: NDArray[np.uint16]
    versions: NDArray[np.uint64]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.partitions)

    def take(self, selected: NDArray[np.int64]) -> "Rows":
        """Return the selected rows in that order, copied."""
        return gather([(self, selected)])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        fixed = self.latents.nbytes + self.weights.nbytes + self.partitions.nbytes + self.versions.nbytes
        return fixed + self.ids.nbytes + sum(column.nbytes for column in self.columns.values())


def gather(sources: Sequence[tuple[Rows, NDArray[np.int64]]]) -> Rows:
    """Return the selected rows of all sources, one source after the other, each row copied once."""
    return Rows(
        columns.gather_arrays([(source.latents, selected) for source, selected in sources]),
        columns.gather_arrays([(source.weights, selected) for source, selected in sources]),
        ragged.gather([(source.ids, selected) for source, selected in sources]),
        columns.gather_arrays([(source.partitions, selected) for source, selected in sources]),
        columns.gather_arrays([(source.versions, selected) for source, selected in sources]),
        {
            name: columns.gather([(source.columns[name], selected) for source, selected in sources])
            for name in sources[0][0].columns
        },
    )
