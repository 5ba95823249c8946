"""One generation of a collection in this server: its engine, and the state of it that requests see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from services.index.changes import Changes
from services.index.core.explain import Explanation
from services.index.core.fields import Declared
from services.index.core.index import SparseIndex
from services.index.core.listing import Scanned
from services.index.core.search import Hit
from services.index.core.statistics import Statistics
from services.index.core.where import Where
from services.index.core.writer import State
from services.index.core_errors import IN_LOG, IN_REQUEST, core_errors
from services.index.store.catalog import GenerationRecord
from services.index.store.codes import decode_codes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a request wants to be searched; the engine checks the ranges."""

    top_n: int
    k_query: int
    k_docs: int
    min_score: float | None = None
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What requests see: one state of the engine and the positions it is exact at, replaced as one reference.

    Attributes:
        state: Every entry of a partition up to its position is in it, and none behind.
        positions: Position by partition; a partition is ready exactly when it is in here.
        held: Partitions whose documents the state may hold, ready or not.
    """

    state: State
    positions: Mapping[int, int]
    held: frozenset[int]

    def only(self, partitions: frozenset[int]) -> frozenset[int] | None:
        """Return what to give an engine as its partitions: None where nothing would be left out.

        Testing every row's partition costs time, and is needed only when some rows are not asked for.
        """
        return None if partitions >= self.held else partitions


class GenerationIndex:
    """The engine of one generation.

    One thread at a time may `write`, `adopt` or `publish`; any number may read `published` and what it has meanwhile.
    """

    def __init__(self, record: GenerationRecord, k_max: int, declared: Declared) -> None:
        self.record = record
        self._engine = SparseIndex(record.hidden_dim, k_max, declared)
        self.published = Published(self._engine.state, {}, frozenset())

    @property
    def engine(self) -> SparseIndex:
        """The engine; who is not the one writer only saves what was published."""
        return self._engine

    def adopt(self, engine: SparseIndex) -> None:
        """Go on with an engine that was restored; nothing is published by that."""
        self._engine = engine
        self.published = Published(engine.state, {}, frozenset())

    def write(self, changes: Changes) -> None:
        """Bring changes into the engine; requests see them after `publish`.

        A document without a code of this generation leaves the engine: its code there would be of an older version.

        Raises:
            CorruptRecord: a code that no writer of ours could have stored.
        """
        number = self.record.generation
        present, lengths, latents, weights = decode_codes(changes.bodies, number)
        kept = np.flatnonzero(present)
        gone = [*changes.gone, *(changes.ids[row] for row in np.flatnonzero(~present))]
        with core_errors(IN_LOG, f"generation {number}"):
            if changes.dropped:
                self._engine.drop_partitions(changes.dropped)
            if len(kept):
                self._engine.upsert_quantised(
                    _taken(changes.ids, kept),
                    lengths,
                    latents,
                    weights,
                    fields=None if changes.fields is None else _taken(changes.fields, kept),
                    partitions=changes.partitions[kept],
                    versions=changes.versions[kept],
                )
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
                where=options.where,
                partitions=published.only(partitions),
                at=published.state,
            )

    def explain(
        self,
        published: Published,
        latents: NDArray[np.uint16],
        weights: NDArray[np.float32],
        ids: Sequence[str],
        options: SearchOptions,
    ) -> list[Explanation | None]:
        """Say which latents make up the scores of documents; as `search`, for one query."""
        with core_errors(IN_REQUEST, "explain"):
            return self._engine.explain(
                latents, weights, ids, k_query=options.k_query, k_docs=options.k_docs, at=published.state
            )

    def cost(
        self,
        published: Published,
        latents: NDArray[np.uint16],
        weights: NDArray[np.float32],
        options: SearchOptions,
    ) -> NDArray[np.int64]:
        """Estimate for each query what a search takes, in units that all engines share (SparseIndex.cost).

        Raises:
            InvalidVector, InvalidRequest: as `search`.
        """
        with core_errors(IN_REQUEST, "search"):
            return self._engine.cost(
                latents, weights, k_query=options.k_query, k_docs=options.k_docs, at=published.state
            )

    def scan(
        self, published: Published, limit: int, after: str | None, where: Where | None, partitions: frozenset[int]
    ) -> list[Scanned]:
        """Return documents of these partitions by id ascending, at most `limit`, with ids behind `after`.

        Raises:
            InvalidRequest: what the engine refuses.
        """
        with core_errors(IN_REQUEST, "scan"):
            return self._engine.scan(limit, after, where, published.only(partitions), published.state)

    def count(self, published: Published, where: Where | None, partitions: frozenset[int]) -> int:
        """Return how many documents of these partitions match.

        Raises:
            InvalidRequest: what the engine refuses.
        """
        with core_errors(IN_REQUEST, "count"):
            return self._engine.count(where, published.only(partitions), published.state)

    def statistics(self) -> Statistics:
        """Count what the engine holds. Cost: one pass over all codes."""
        return self._engine.statistics()


def _taken(items: list[T], rows: NDArray[np.intp]) -> list[T]:
    return items if len(rows) == len(items) else [items[row] for row in rows]
