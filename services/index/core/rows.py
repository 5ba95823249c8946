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

    latents, weights: u16 [n, k_max], codes as in `code.Codes`. ids: n packed ids. partitions: u16 [n].
    columns: one for each declared field.
    """

    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]
    ids: Ragged
    partitions: NDArray[np.uint16]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.partitions)

    def take(self, selected: NDArray[np.int64]) -> "Rows":
        """Return the selected rows in that order, copied."""
        return Rows(
            self.latents[selected],
            self.weights[selected],
            self.ids.take(selected),
            self.partitions[selected],
            {name: column.take(selected) for name, column in self.columns.items()},
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        fixed = self.latents.nbytes + self.weights.nbytes + self.partitions.nbytes
        return fixed + self.ids.nbytes + sum(column.nbytes for column in self.columns.values())


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one after the other, copied."""
    return Rows(
        np.concatenate([part.latents for part in parts]),
        np.concatenate([part.weights for part in parts]),
        ragged.concatenate([part.ids for part in parts]),
        np.concatenate([part.partitions for part in parts]),
        {name: columns.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )
