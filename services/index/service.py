"""ShardService: the gRPC face of an index server. Translates and delegates."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc
from services.index.collection import CollectionIndex, HeldPartition
from services.index.follower import Follower
from services.index.generation import GenerationIndex, Published, SearchOptions
from services.index.lanes import Lanes
from services.runtime import limits, metrics
from services.runtime.codec import codes_from_proto
from services.runtime.errors import (
    DeadlineSpent,
    InvalidRequest,
    LimitExceeded,
    PartitionUnavailable,
    WrongOwner,
    WrongState,
)

OPENING_SECONDS: Final = 1.0
"""Longest that a search waits for partitions that are being loaded: enough for a collection that was just created."""
DEADLINE_SECONDS: Final = 10.0
"""Deadline of a search that brings none."""
_ANSWER_SECONDS: Final = 0.005
"""Kept back from a deadline, so that the reason reaches the caller before its own clock runs out."""

Context = grpc.aio.ServicerContext[Any, Any]


class ShardService(shard_pb2_grpc.ShardServiceServicer):
    """Searches and describes the partitions that a follower keeps."""

    def __init__(self, name: str, follower: Follower, lanes: Lanes) -> None:
        self._name = name
        self._follower = follower
        self._lanes = lanes

    async def SearchPartitions(  # noqa: N802 - the name comes from the proto
        self, request: shard_pb2.SearchPartitionsRequest, context: Context
    ) -> shard_pb2.SearchPartitionsResponse:
        """Answer with the exact best documents of the named partitions, at positions that the answer names.

        Raises:
            InvalidRequest, LimitExceeded, InvalidVector, FingerprintMismatch: the request is wrong.
            WrongOwner: a partition is not held here. WrongState: the collection has no such generation.
            PartitionUnavailable: a partition is not ready. DeadlineSpent: positions were not reached in time.
        """
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        deadline = loop.time() + (DEADLINE_SECONDS if remaining is None else max(remaining - _ANSWER_SECONDS, 0.0))
        partitions = _partitions(request.partitions)
        options = _options(request)
        collection = await self._collection(request.collection_id, request.generation, partitions)
        index = collection.generations[request.generation]
        codes = codes_from_proto(
            request.codes, "codes", index.record.hidden_dim, limits.K_QUERY_MAX, index.record.fingerprint
        )
        if len(codes) > limits.QUERIES_PER_SEARCH_MAX:
            raise LimitExceeded(f"codes.count: {len(codes)}, at most {limits.QUERIES_PER_SEARCH_MAX} are allowed")
        wanted = {position.partition: position.lsn for position in request.positions}
        published = await self._visible(collection, index, partitions, wanted, deadline)
        results = await self._lanes.search(index, published, codes, options, partitions, deadline)
        metrics.counter(metrics.INDEX_QUERIES).inc(len(codes))
        response = shard_pb2.SearchPartitionsResponse(
            positions=[
                search_pb2.PartitionPosition(partition=partition, lsn=published.positions[partition])
                for partition in sorted(partitions)
            ],
        )
        for hits in results:
            response.results.add(ids=[id for id, _ in hits], scores=[score for _, score in hits])
            await asyncio.sleep(0)  # 256 queries with 1,000 hits each must not hold up all other requests
        return response

    async def GetShardStatus(  # noqa: N802 - the name comes from the proto
        self, request: shard_pb2.GetShardStatusRequest, context: Context
    ) -> shard_pb2.GetShardStatusResponse:
        """Describe what this server holds, from memory."""
        collections = sorted(self._follower.collections.items())
        return shard_pb2.GetShardStatusResponse(
            name=self._name,
            term=self._follower.term,
            partitions=[
                _describe(collection_id, partition, held, collection)
                for collection_id, collection in collections
                if request.collection_id in ("", collection_id)
                for partition, held in sorted(collection.held.items())
            ],
        )

    async def _collection(self, collection_id: str, generation: int, partitions: frozenset[int]) -> CollectionIndex:
        """Return the collection when it has this generation and this server holds the partitions.

        What is unknown may be news: placement and catalogue are read once more before the request is refused.
        """
        refreshed = False
        while True:
            collection = self._follower.collections.get(collection_id)
            held = set() if collection is None else collection.held.keys()
            if collection is not None and partitions <= held and generation in collection.generations:
                return collection
            if not refreshed:
                await self._follower.refresh()
                refreshed = True
            elif not partitions <= held:
                missing = ", ".join(map(str, sorted(partitions - held)))
                raise WrongOwner(f"partitions: {self._name} does not hold {missing} of collection {collection_id!r}")
            else:
                raise WrongState(f"generation: collection {collection_id!r} has no generation {generation}")

    async def _visible(
        self,
        collection: CollectionIndex,
        index: GenerationIndex,
        partitions: frozenset[int],
        wanted: dict[int, int],
        deadline: float,
    ) -> Published:
        """Return a published state in which the partitions are ready and at or behind the wanted positions."""
        loop = asyncio.get_running_loop()
        opening = min(loop.time() + OPENING_SECONDS, deadline)
        while True:
            if collection.closed:
                raise WrongOwner(f"collection_id: {self._name} no longer holds {collection.record.collection_id!r}")
            published = index.published
            unready = partitions - published.positions.keys()
            behind = [
                partition
                for partition in partitions - unready
                if published.positions[partition] < wanted.get(partition, 0)
            ]
            if not unready and not behind:
                return published
            if behind:
                self._follower.hurry()
            try:
                async with asyncio.timeout_at(opening if unready else deadline):
                    await collection.changed()
            except TimeoutError:
                if unready:
                    raise PartitionUnavailable(_not_ready(collection, unready)) from None
                raise DeadlineSpent(_unreached(behind, wanted, published)) from None


def _not_ready(collection: CollectionIndex, unready: frozenset[int]) -> str:
    problems = {held.problem for partition, held in collection.held.items() if partition in unready and held.problem}
    why = "; ".join(["they are being loaded", *sorted(problems)])
    return f"partitions: {sorted(unready)} are not ready: {why}"


def _unreached(behind: list[int], wanted: dict[int, int], published: Published) -> str:
    partition = min(behind)
    return (
        f"positions: partition {partition} is at {published.positions[partition]}, "
        f"{wanted[partition]} was not visible before the deadline"
    )


def _partitions(given: Iterable[int]) -> frozenset[int]:
    listed = list(given)
    if not listed or listed != sorted(set(listed)):
        raise InvalidRequest("partitions: at least one, ascending and none twice")
    return frozenset(listed)


def _options(request: shard_pb2.SearchPartitionsRequest) -> SearchOptions:
    if not 1 <= request.top_n <= limits.TOP_N_MAX:
        raise LimitExceeded(f"top_n: {request.top_n}, must be 1..{limits.TOP_N_MAX}")
    if not 1 <= request.k_query <= limits.K_QUERY_MAX:
        raise LimitExceeded(f"k_query: {request.k_query}, must be 1..{limits.K_QUERY_MAX}")
    min_score = request.min_score if request.HasField("min_score") else None
    return SearchOptions(request.top_n, request.k_query, request.k_docs, min_score)


def _describe(
    collection_id: str, partition: int, held: HeldPartition, collection: CollectionIndex
) -> shard_pb2.HeldPartition:
    status = held.status
    return shard_pb2.HeldPartition(
        collection_id=collection_id,
        partition=partition,
        lsn=status.lsn,
        documents=status.documents,
        ready=collection.ready(partition),
        state_digest=status.state_digest,
        head_lsn=held.head_lsn,
    )
