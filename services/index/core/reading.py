"""What can be asked of an index: every answer is of one moment, takes no lock and changes nothing."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.index.core import arguments, code, explain, listing, search, statistics
from services.index.core.errors import InvalidCode
from services.index.core.explain import Explanation
from services.index.core.fields import Declared
from services.index.core.ids import pack_ids
from services.index.core.limits import K_MAX, SCAN_MAX
from services.index.core.listing import Scanned
from services.index.core.planner import Kernel
from services.index.core.search import Allowed, Hit
from services.index.core.statistics import Statistics
from services.index.core.where import Where, check_filter
from services.index.core.writer import State, Writer


class Reader:
    """The half of `SparseIndex` that reads."""

    hidden_dim: int
    k_max: int
    fields: Declared
    _levels: tuple[int, ...]
    _writer: Writer

    def search(
        self,
        latents: ArrayLike,
        weights: ArrayLike,
        top_n: int,
        k: int | None = None,
        k_query: int | None = None,
        k_docs: int | None = None,
        where: Where | None = None,
        min_score: float | None = None,
        partitions: Collection[int] | None = None,
        threads: int = 1,
        at: State | None = None,
        kernel: Kernel | None = None,
    ) -> list[list[Hit]]:
        """Find the best documents for each query.

        Args:
            latents: Integer [queries, width].
            weights: float32 [queries, width], as `upsert`, with at most 256 > 0.
            top_n: Most hits of a query, 1..1,000.
            k: Sets k_query and k_docs both.
            k_query: Latents of each query in use, 1..256; all of them by default.
            k_docs: Latents of each document in use, a level: a power of two up to k_max, or k_max, the default.
            where: Filter over declared fields.
            min_score: Least score of a hit, inclusive.
            partitions: Only documents of these partitions.
            threads: Threads that share the queries; results are the same for any number.
            at: A state of this index to search instead of the latest.
            kernel: Search segments with this kernel, whatever it costs; for tests and benchmarks.

        Returns:
            For each query its hits (id, score), best first; all queries see the same moment of the index.

        Raises:
            InvalidCode, InvalidSearch, InvalidState, InvalidFilter, UnknownField.
        """
        options = arguments.options(self._levels, top_n, k, k_query, k_docs, min_score, kernel)
        arguments.require_int("threads", threads, 1, 1_024)
        queries = code.quantise(latents, weights, hidden_dim=self.hidden_dim, active_max=K_MAX)
        state, allowed = self._allowed(where, partitions, at)
        return search.search(state, queries, options, allowed, threads)

    def explain(
        self,
        latents: ArrayLike,
        weights: ArrayLike,
        ids: Sequence[str],
        k: int | None = None,
        k_query: int | None = None,
        k_docs: int | None = None,
        at: State | None = None,
    ) -> list[Explanation | None]:
        """Say for one query which latents make up the scores of documents, found by a search or not.

        Args:
            latents: Integer [1, width].
            weights: float32 [1, width], as `search`.
            ids: Distinct ids of documents.
            k: As `search`; so are k_query, k_docs and at. Hits of a search are explained by the same arguments, and
                by the same state where writes go on.

        Returns:
            For each id its score and contributions, or None where there is no such document (any more).

        Raises:
            InvalidId, InvalidCode, InvalidSearch, InvalidState.
        """
        options = arguments.options(self._levels, 1, k, k_query, k_docs, None, None)
        query = code.quantise(latents, weights, hidden_dim=self.hidden_dim, active_max=K_MAX)
        if len(query.latents) != 1:
            raise InvalidCode(f"latents must hold one query to explain, not {len(query.latents)}")
        prefix = code.with_width(query, options.k_query)
        state = self._moment(at)
        return explain.explain(state, prefix, options.k_docs, pack_ids(ids), self.hidden_dim)

    def scan(
        self,
        limit: int,
        after: str | None = None,
        where: Where | None = None,
        partitions: Collection[int] | None = None,
        at: State | None = None,
    ) -> list[Scanned]:
        """List documents by id ascending (as UTF-8 bytes). Cost: one pass over all ids, without the GIL.

        Args:
            limit: Most documents, 1..1,000,000.
            after: Only ids > this text, such as the last id of the page before.
            where: As `search`; so are partitions and at. Pages that are to be of one moment need the same `at`.

        Returns:
            (id, version, partition) of each; fewer than the limit when there are no more.

        Raises:
            InvalidSearch, InvalidState, InvalidFilter, UnknownField.
        """
        arguments.require_int("limit", limit, 1, SCAN_MAX)
        behind = arguments.after(after)
        state, allowed = self._allowed(where, partitions, at)
        return listing.scan(state, allowed, int(limit), behind)

    def count(
        self, where: Where | None = None, partitions: Collection[int] | None = None, at: State | None = None
    ) -> int:
        """Count documents, those that `scan` lists with the same arguments; it raises the same errors."""
        _, allowed = self._allowed(where, partitions, at)
        return allowed.documents

    def cost(
        self,
        latents: ArrayLike,
        weights: ArrayLike,
        k: int | None = None,
        k_query: int | None = None,
        k_docs: int | None = None,
        at: State | None = None,
    ) -> NDArray[np.int64]:
        """Estimate what a search takes, for each query, without a look at postings; arguments as `search`.

        Returns:
            int64 [queries], nanoseconds on one core, if all that the queries touch is added up, in every segment. Only
            the proportions mean something, between queries, indexes and moments: machines differ, and so does what a
            better kernel or a filter saves.

        Raises:
            InvalidCode, InvalidSearch, InvalidState.
        """
        options = arguments.options(self._levels, 1, k, k_query, k_docs, None, None)
        queries = code.quantise(latents, weights, hidden_dim=self.hidden_dim, active_max=K_MAX)
        return search.costs(self._moment(at), queries, options)

    @property
    def state(self) -> State:
        """What a search sees that begins now; writes never change it, so it can be searched again later."""
        return self._writer.state

    def __len__(self) -> int:
        return self._writer.state.documents

    def ids(self) -> list[str]:
        """Return the ids of all documents, ascending as UTF-8 bytes."""
        return search.document_ids(self._writer.state)

    def statistics(self) -> Statistics:
        """Count what the index holds. Cost: one pass over all codes."""
        return statistics.count(self._writer.state, self.hidden_dim)

    def _allowed(
        self, where: Where | None, partitions: Collection[int] | None, at: State | None
    ) -> tuple[State, Allowed]:
        """Return the moment asked for, and which of its documents may be found."""
        if where is not None:
            check_filter(where, self.fields)
        chosen = None if partitions is None else arguments.some_partitions(partitions)
        state = self._moment(at)
        return state, search.allowed_rows(state, where, chosen)

    def _moment(self, at: State | None) -> State:
        if at is None:
            return self._writer.state
        arguments.require_state(at, self.hidden_dim, self.k_max, self.fields)
        return at
