"""An index beside the oracle's table of the same documents: every search is compared, bit for bit."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.index.core import code
from services.index.core.index import SparseIndex
from tests.services.index.core import oracle
from tests.services.index.core.data import Batch
from tests.services.index.core.filters import matches

KERNELS: Final = (None, "accumulate", "block-max", "direct")
"""What the planner chooses, and each kernel by name."""


class CheckedIndex:
    """Writes go to both sides; `check` searches both."""

    def __init__(self, hidden_dim: int, k_max: int, fields: Mapping[str, str] | None = None) -> None:
        self.index = SparseIndex(hidden_dim, k_max, fields)
        self._names: list[str] = []
        self._records: list[Any] = []
        self._row_of: dict[str, int] = {}
        self._codes: list[code.Codes] = []
        self._partitions: list[int] = []

    def upsert(
        self,
        names: Sequence[str],
        batch: Batch,
        records: Sequence[Any] | None = None,
        partitions: Sequence[int] | None = None,
    ) -> None:
        """Add or replace documents."""
        self.index.upsert(names, batch.latents, batch.weights, records, partitions)
        index = self.index
        stored = code.quantise(batch.latents, batch.weights, hidden_dim=index.hidden_dim, active_max=index.k_max)
        self._codes.append(code.with_width(stored, index.k_max))
        self._row_of.update((name, len(self._names) + row) for row, name in enumerate(names))
        self._names.extend(names)
        self._records.extend([{}] * len(names) if records is None else records)
        self._partitions.extend([0] * len(names) if partitions is None else partitions)

    def delete(self, names: Sequence[str]) -> None:
        """Remove documents, known or not."""
        known = [name for name in names if self._row_of.pop(name, None) is not None]
        assert self.index.delete(names) == len(known)

    def check(
        self,
        queries: Batch,
        top_n: int = 10,
        *,
        kernels: Sequence[str | None] = KERNELS,
        threads: Sequence[int] = (1,),
        **options: Any,
    ) -> list[list[tuple[str, float]]]:
        """Search with every kernel and number of threads, as one batch; return what all of them must return."""
        expected = self.expected(queries, top_n, **options)
        for kernel in kernels:
            for count in threads:
                found = self.index.search(
                    queries.latents, queries.weights, top_n, kernel=kernel, threads=count, **options
                )
                assert found == expected, (kernel, count, options)
        return expected

    def check_one_by_one(self, queries: Batch, top_n: int = 10, **options: Any) -> None:
        """As `check`, a search for each query."""
        for row in range(len(queries)):
            self.check(queries[row : row + 1], top_n, **options)

    def expected(
        self,
        queries: Batch,
        top_n: int,
        k: int | None = None,
        k_query: int | None = None,
        k_docs: int | None = None,
        where: Any = None,
        min_score: float | None = None,
        partitions: Sequence[int] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return the oracle's hits."""
        table = self._table()
        allowed = np.array([self._row_of.get(name) == row for row, name in enumerate(self._names)], np.bool_)
        if partitions is not None:
            allowed &= np.isin(self._partitions, list(partitions))
        if where is not None:
            allowed &= np.array([matches(where, record or {}) for record in self._records], np.bool_)
        floor = -1.0 if min_score is None else min_score
        return [
            table.search(
                oracle.stored_code(queries.latents[row], queries.weights[row]),
                top_n,
                k_query or k or 256,
                k_docs or k or 256,
                floor,
                allowed,
            )
            for row in range(len(queries))
        ]

    def _table(self) -> oracle.Table:
        return oracle.Table(self._names, self._joined(0), self._joined(1))

    def _joined(self, part: int) -> NDArray[np.int64]:
        if not self._codes:
            return np.zeros((0, self.index.k_max), np.int64)
        return np.concatenate([codes[part] for codes in self._codes]).astype(np.int64)
