"""Rows that are not sealed yet: appended by one writer, read by anyone as views that never change."""

import numpy as np
from numpy.typing import NDArray

from services.index.core import columns, ids
from services.index.core.fields import Declared
from services.index.core.ragged import GrowingRagged, Ragged
from services.index.core.rows import Rows


class Memtable:
    """Room for `capacity` rows. A row once shown by `view` is never written again."""

    def __init__(self, capacity: int, k_max: int, declared: Declared) -> None:
        self.capacity = capacity
        self._latents = np.zeros((capacity, k_max), np.uint16)
        self._weights = np.zeros((capacity, k_max), np.uint16)
        self._partitions = np.zeros(capacity, np.uint16)
        self._versions = np.zeros(capacity, np.uint64)
        self._ids = GrowingRagged(capacity, np.uint8)
        self._columns = {name: columns.growing(kind, capacity) for name, kind in declared.items()}
        self._slots, self._in_table = ids.new_table(capacity), 0

    def write(self, at: int, rows: Rows) -> None:
        """Write rows at row `at`, the first one that no view shows."""
        end = at + len(rows)
        self._latents[at:end], self._weights[at:end] = rows.latents, rows.weights
        self._partitions[at:end], self._versions[at:end] = rows.partitions, rows.versions
        self._ids.write(at, rows.ids)
        for name, column in self._columns.items():
            column.write(at, rows.columns[name])

    def find(self, wanted: Ragged, length: int) -> NDArray[np.int64]:
        """Return the newest row of each id among the first `length` rows, dead or alive, or -1. Only for the writer.

        Rows enter the table here, not when they are written: one that was never published is overwritten.
        """
        written = self._ids.view(length)
        ids.put_rows(self._slots, written.flat, written.offsets, self._in_table, length)
        self._in_table = length
        return ids.find_rows(self._slots, written.flat, written.offsets, wanted.flat, wanted.offsets)

    def view(self, length: int) -> Rows:
        """Return the first `length` rows without copying."""
        return Rows(
            self._latents[:length],
            self._weights[:length],
            self._ids.view(length),
            self._partitions[:length],
            self._versions[:length],
            {name: column.view(length) for name, column in self._columns.items()},
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, used or not."""
        fixed = self._latents.nbytes + self._weights.nbytes + self._partitions.nbytes + self._versions.nbytes
        ids_nbytes = self._ids.nbytes + self._slots.nbytes
        return fixed + ids_nbytes + sum(column.nbytes for column in self._columns.values())
