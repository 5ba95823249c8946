"""One search, many index servers: each is asked once for all the partitions that it owns."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import grpc

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc, vector_pb2
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.placement import IndexServer, PlacementTable
from services.router.concurrently import concurrently
from services.router.tokens import highest
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.errors import CsrError, PartitionUnavailable, error_from_rpc
from services.runtime.lifecycle import request_metadata


@dataclass(frozen=True)
class PartitionQuery:
    """What every index server is asked, pinned to one generation."""

    record: CollectionRecord
    generation: GenerationRecord
    codes: vector_pb2.CodeBatch
    top_n: int
    k_query: int
    k_docs: int
    min_score: float | None
    positions: Mapping[int, int]
    """Log positions that must be visible, by partition."""


@dataclass(frozen=True)
class Answers:
    """What all servers answered; together they cover every partition."""

    responses: list[shard_pb2.SearchPartitionsResponse]
    positions: dict[int, int]
    """Log position that the answer is exact at, of every partition."""


@lru_cache(maxsize=4_096)
def partitions_by_server(
    table: PlacementTable, collection_id: str, partitions: int
) -> Mapping[IndexServer, tuple[int, ...]]:
    """Return the partitions that each index server owns, ascending; servers that own none are left out."""
    owned: dict[IndexServer, list[int]] = defaultdict(list)
    for partition in range(partitions):
        owned[table.owner(collection_id, partition)].append(partition)
    return {server: tuple(numbers) for server, numbers in owned.items()}


class IndexServers:
    """Channels to index servers, opened at the first call and closed by `close`."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def search(self, table: PlacementTable, query: PartitionQuery, timeout: float) -> Answers:
        """Ask every owner of a partition of the collection; all must answer.

        Raises:
            PartitionUnavailable: a server cannot be reached, or does not hold its partitions yet.
            WrongOwner: the placement changed; read it again.
            DeadlineSpent: a server took longer than timeout, or has not read as far as positions by then.
        """
        owned = partitions_by_server(table, query.record.collection_id, query.record.partitions)
        responses = await concurrently(
            self._search_server(server, partitions, query, timeout) for server, partitions in owned.items()
        )
        positions = highest(position for response in responses for position in response.positions)
        missing = sorted(set(range(query.record.partitions)) - positions.keys())
        if missing:
            raise PartitionUnavailable(f"no index server answered for partitions {missing}")
        return Answers(responses, positions)

    async def status(self, server: IndexServer, collection_id: str, timeout: float) -> shard_pb2.GetShardStatusResponse:
        """Return what a server holds of one collection, or of all for an empty id.

        Raises:
            PartitionUnavailable, DeadlineSpent: it cannot be reached.
        """
        request = shard_pb2.GetShardStatusRequest(collection_id=collection_id)
        try:
            return await self._stub(server).GetShardStatus(request, timeout=timeout, metadata=request_metadata())
        except grpc.aio.AioRpcError as error:
            raise _server_error(server, error) from error

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()

    async def _search_server(
        self, server: IndexServer, partitions: tuple[int, ...], query: PartitionQuery, timeout: float
    ) -> shard_pb2.SearchPartitionsResponse:
        request = shard_pb2.SearchPartitionsRequest(
            collection_id=query.record.collection_id,
            generation=query.generation.generation,
            partitions=partitions,
            codes=query.codes,
            top_n=query.top_n,
            k_query=query.k_query,
            k_docs=query.k_docs,
            min_score=query.min_score,
            positions=[
                search_pb2.PartitionPosition(partition=partition, lsn=query.positions[partition])
                for partition in partitions
                if partition in query.positions
            ],
        )
        try:
            response = await self._stub(server).SearchPartitions(request, timeout=timeout, metadata=request_metadata())
        except grpc.aio.AioRpcError as error:
            raise _server_error(server, error) from error
        if len(response.results) != query.codes.count:
            raise PartitionUnavailable(f"{server.name} answered {len(response.results)} of {query.codes.count} queries")
        return response

    def _stub(self, server: IndexServer) -> "shard_pb2_grpc.ShardServiceAsyncStub":
        channel = self._channels.get(server.address)
        if channel is None:
            channel = grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS)
            self._channels[server.address] = channel
        return shard_pb2_grpc.ShardServiceStub(channel)


def _server_error(server: IndexServer, error: grpc.aio.AioRpcError) -> CsrError:
    meant = error_from_rpc(error)
    return type(meant)(f"{server.name} at {server.address}: {meant}")
