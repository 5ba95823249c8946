"""One generation of a collection in this server: its engine, and the state of it that searches see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.index.core.index import SparseIndex
from services.index.core.search import Hit
from services.index.core.statistics import Statistics
from services.index.core.writer import State
from services.index.core_errors import IN_LOG, IN_REQUEST, core_errors
from services.index.store.catalog import GenerationRecord
from services.index.store.entry import DocumentBody, QuantisedCode

DecodedChanges: TypeAlias = Mapping[int, Mapping[str, DocumentBody | None]]
"""By partition: what became of documents, by id; None when the document is gone."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a request wants to be searched; the engine checks the ranges."""

    top_n: int
    k_query: int
    k_docs: int
    min_score: float | None


@dataclass(frozen=True, slots=True)
class Published:
    """What searches see: one state of the engine and the positions it is exact at, replaced as one reference.

    Attributes:
        state: Every entry of a partition up to its position is in it, and none behind.
        positions: Position by partition; a partition is ready exactly when it is in here.
        held: Partitions whose documents the state may hold, ready or not.
    """

    state: State
    positions: Mapping[int, int]
    held: frozenset[int]


class GenerationIndex:
    """The engine of one generation.

    One thread at a time may `write` or `publish`; any number may read `published` and search it meanwhile.
    """

    def __init__(self, record: GenerationRecord, k_max: int) -> None:
        self.record = record
        self._engine = SparseIndex(record.hidden_dim, k_max)
        self.published = Published(self._engine.state, {}, frozenset())

    def write(self, changes: DecodedChanges) -> None:
        """Bring changes into the engine; searches see them after `publish`.

        A document without a code of this generation leaves the engine: its code there would be of an older version.

        Raises:
            CorruptRecord: a code that no writer of ours could have stored.
        """
        ids: list[str] = []
        codes: list[QuantisedCode] = []
        partitions: list[int] = []
        gone: list[str] = []
        for partition, bodies in changes.items():
            for id, body in bodies.items():
                code = None if body is None else body.codes.get(self.record.generation)
                if code is None:
                    gone.append(id)
                else:
                    ids.append(id)
                    codes.append(code)
                    partitions.append(partition)
        with core_errors(IN_LOG, f"generation {self.record.generation}"):
            if ids:
                self._upsert(ids, codes, partitions)
            if gone:
                self._engine.delete(gone)

    def publish(self, positions: Mapping[int, int], held: frozenset[int]) -> None:
        """Show all that was written; the positions must be those that it reaches."""
        self.published = Published(self._engine.state, positions, held)

    def search(
        self,
        published: Published,
        latents: NDArray[np.uint16],
        weights: NDArray[np.float32],
        options: SearchOptions,
        partitions: frozenset[int],
    ) -> list[list[Hit]]:
        """Return the hits of each query among the documents of these partitions, as of `published`.

        Args:
            published: What to search.
            latents: [queries, width], 0 where the weight is.
            weights: [queries, width], descending, zeros at the end.
            options: As the request has them.
            partitions: Where to search.

        Raises:
            InvalidVector, InvalidRequest: what the engine refuses.
        """
        with core_errors(IN_REQUEST, "search"):
            return self._engine.search(
                latents,
                weights,
                options.top_n,
                k_query=options.k_query,
                k_docs=options.k_docs,
                min_score=options.min_score,
                # Testing every row's partition costs time, and is needed only when some rows are not asked for.
                partitions=None if partitions >= published.held else partitions,
                at=published.state,
            )

    def statistics(self) -> Statistics:
        """Count what the engine holds. Cost: one pass over all codes."""
        return self._engine.statistics()

    def _upsert(self, ids: Sequence[str], codes: Sequence[QuantisedCode], partitions: Sequence[int]) -> None:
        self._engine.upsert_quantised(
            ids,
            np.fromiter((len(code.latents) for code in codes), np.int64, len(codes)),
            np.concatenate([code.latents for code in codes]),
            np.concatenate([code.weights for code in codes]),
            partitions=np.array(partitions, np.int64),
        )
