"""One request, many index servers: each is asked once for all the partitions that it owns."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

from csr.v1 import filter_pb2, shard_pb2, vector_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.placement import IndexServer, PlacementTable
from services.router.concurrently import concurrently
from services.router.deadline import Deadline
from services.router.index_servers import IndexServers
from services.router.query_plan import lowered
from services.router.tokens import highest, position_messages
from services.runtime.errors import (
    CsrError,
    DeadlineSpent,
    Overloaded,
    PartitionUnavailable,
    StoreUnavailable,
    WrongOwner,
)

Answer = TypeVar("Answer")

_PARTIAL_SHARE: Final = 0.8
"""Of the time left, for servers where a partial answer will do: one that hangs must not cost the others' answers."""
_LOST: Final = (PartitionUnavailable, WrongOwner, StoreUnavailable, DeadlineSpent, Overloaded)
"""What a partial answer may be without: a server that does not answer now, but not one that refuses the request."""


@dataclass(frozen=True)
class PartitionQuery:
    """What every index server is asked, pinned to one generation."""

    record: CollectionRecord
    codes: vector_pb2.CodeBatch
    top_n: int
    k_query: int
    k_docs: int
    min_score: float | None
    where: filter_pb2.Filter | None
    positions: Mapping[int, int]
    """Log positions that must be visible, by partition."""
    allow_partial: bool
    allow_lower_k: bool


@dataclass(frozen=True)
class Answers:
    """What the servers answered; together they cover every partition, or with allow_partial some."""

    query: PartitionQuery
    """As it was answered: at lower levels than asked for, perhaps."""
    responses: Sequence[shard_pb2.SearchPartitionsResponse]
    positions: Mapping[int, int]
    """Log position that the answer is exact at, of every partition that answered."""
    failures: Sequence[CsrError]
    """With allow_partial: why servers did not answer."""

    @property
    def staleness_seconds(self) -> float:
        """The worst of all servers."""
        return worst_staleness(self.responses)


class _Stale(Protocol):
    @property
    def staleness_seconds(self) -> float: ...


def worst_staleness(responses: Iterable[_Stale]) -> float:
    """Return the largest staleness of some answers, 0 without any."""
    return max((response.staleness_seconds for response in responses), default=0.0)


@lru_cache(maxsize=4_096)
def partitions_by_server(
    table: PlacementTable, collection_id: str, partitions: int
) -> Mapping[IndexServer, tuple[int, ...]]:
    """Return the partitions that each index server owns, ascending; servers that own none are left out."""
    return owners_of(table, collection_id, range(partitions))


def owners_of(
    table: PlacementTable, collection_id: str, partitions: Iterable[int]
) -> Mapping[IndexServer, tuple[int, ...]]:
    """Return which of some partitions each index server owns, in the order given."""
    owned: dict[IndexServer, list[int]] = defaultdict(list)
    for partition in partitions:
        owned[table.owner(collection_id, partition)].append(partition)
    return {server: tuple(numbers) for server, numbers in owned.items()}


async def ask_owners(
    owned: Mapping[IndexServer, tuple[int, ...]],
    ask: Callable[[IndexServer, tuple[int, ...]], Coroutine[Any, Any, Answer]],
) -> list[Answer]:
    """Ask every server for its partitions, all at once; the first error ends the others and is raised."""
    return await concurrently(ask(server, partitions) for server, partitions in owned.items())


class FanOut:
    """Searches on all index servers; holds no state of its own."""

    def __init__(self, servers: IndexServers) -> None:
        self._servers = servers

    async def search(self, table: PlacementTable, query: PartitionQuery, deadline: Deadline) -> Answers:
        """Ask every owner of a partition of the collection.

        With allow_lower_k an overloaded server makes all of them answer once more, at half the latents: levels must
        not differ between the servers of one answer.

        Raises:
            PartitionUnavailable: a server cannot be reached, or does not hold its partitions yet.
            WrongOwner: the placement changed; read it again.
            DeadlineSpent: a server took longer than the deadline, or has not read as far as positions by then.
            Overloaded: a server has too much to do, also at the lowest level.
            CsrError: with allow_partial only when no server answers, as the first of them failed.
        """
        while True:
            lower = lowered(query.k_query, query.k_docs) if query.allow_lower_k else None
            try:
                answers = await self._search(table, query, deadline)
                if lower is None or not any(isinstance(failure, Overloaded) for failure in answers.failures):
                    return answers
            except Overloaded:
                if lower is None:
                    raise
            query = replace(query, k_query=lower[0], k_docs=lower[1])

    async def _search(self, table: PlacementTable, query: PartitionQuery, deadline: Deadline) -> Answers:
        owned = partitions_by_server(table, query.record.collection_id, query.record.partitions)
        if query.allow_partial:
            timeout = _PARTIAL_SHARE * deadline.remaining()
            calls = [self._ask(server, partitions, query, timeout) for server, partitions in owned.items()]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        else:
            timeout = deadline.remaining()
            outcomes = list(
                await ask_owners(owned, lambda server, partitions: self._ask(server, partitions, query, timeout))
            )
        responses: list[shard_pb2.SearchPartitionsResponse] = []
        failures: list[CsrError] = []
        for outcome in outcomes:
            if isinstance(outcome, shard_pb2.SearchPartitionsResponse):
                responses.append(outcome)
            elif isinstance(outcome, _LOST):
                failures.append(outcome)
            else:
                raise outcome
        if not responses:
            raise failures[0]
        positions = highest(position for response in responses for position in response.positions)
        missing = sorted(set(range(query.record.partitions)) - positions.keys())
        if missing and not query.allow_partial:
            raise PartitionUnavailable(f"no index server answered for partitions {missing}")
        return Answers(query, responses, positions, failures)

    async def _ask(
        self, server: IndexServer, partitions: tuple[int, ...], query: PartitionQuery, timeout: float
    ) -> shard_pb2.SearchPartitionsResponse:
        request = shard_pb2.SearchPartitionsRequest(
            collection_id=query.record.collection_id,
            generation=query.record.active.generation,
            partitions=partitions,
            codes=query.codes,
            top_n=query.top_n,
            k_query=query.k_query,
            k_docs=query.k_docs,
            min_score=query.min_score,
            positions=position_messages(query.positions, partitions),
            where=query.where,
            allow_partial=query.allow_partial,
        )
        response = await self._servers.search(server, request, timeout)
        if len(response.results) != query.codes.count:
            raise PartitionUnavailable(f"{server.name} answered {len(response.results)} of {query.codes.count} queries")
        return response
