"""Connections to index servers: calls with a deadline, errors told with the server's name."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from csr.v1 import shard_pb2, shard_pb2_grpc
from services.index.store.placement import IndexServer
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.errors import error_from_rpc, reworded
from services.runtime.lifecycle import request_metadata


class IndexServers:
    """Channels to index servers, opened at the first call and closed by `close`.

    Every call raises PartitionUnavailable when the server cannot be reached, DeadlineSpent when it takes longer than
    `timeout` (seconds), and else what the server answers.
    """

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[str, shard_pb2_grpc.ShardServiceAsyncStub] = {}

    async def search(
        self, server: IndexServer, request: shard_pb2.SearchPartitionsRequest, timeout: float
    ) -> shard_pb2.SearchPartitionsResponse:
        """Return the best documents of some partitions."""
        with _errors(server):
            return await self._stub(server).SearchPartitions(request, timeout=timeout, metadata=request_metadata())

    async def scan(
        self, server: IndexServer, request: shard_pb2.ScanPartitionsRequest, timeout: float
    ) -> shard_pb2.ScanPartitionsResponse:
        """Return documents of some partitions by id."""
        with _errors(server):
            return await self._stub(server).ScanPartitions(request, timeout=timeout, metadata=request_metadata())

    async def count(
        self, server: IndexServer, request: shard_pb2.CountPartitionsRequest, timeout: float
    ) -> shard_pb2.CountPartitionsResponse:
        """Count documents of some partitions."""
        with _errors(server):
            return await self._stub(server).CountPartitions(request, timeout=timeout, metadata=request_metadata())

    async def explain(
        self, server: IndexServer, request: shard_pb2.ExplainPartitionsRequest, timeout: float
    ) -> shard_pb2.ExplainPartitionsResponse:
        """Explain the scores of documents."""
        with _errors(server):
            return await self._stub(server).ExplainPartitions(request, timeout=timeout, metadata=request_metadata())

    async def reach(self, server: IndexServer, request: shard_pb2.AwaitPositionsRequest, timeout: float) -> None:
        """Return when searches see the positions."""
        with _errors(server):
            await self._stub(server).AwaitPositions(request, timeout=timeout, metadata=request_metadata())

    async def status(self, server: IndexServer, collection_id: str, timeout: float) -> shard_pb2.GetShardStatusResponse:
        """Return what a server holds of one collection, or of all for an empty id."""
        request = shard_pb2.GetShardStatusRequest(collection_id=collection_id)
        with _errors(server):
            return await self._stub(server).GetShardStatus(request, timeout=timeout, metadata=request_metadata())

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()

    def _stub(self, server: IndexServer) -> "shard_pb2_grpc.ShardServiceAsyncStub":
        stub = self._stubs.get(server.address)
        if stub is None:
            channel = grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS)
            stub = shard_pb2_grpc.ShardServiceStub(channel)
            self._channels[server.address], self._stubs[server.address] = channel, stub
        return stub


@contextmanager
def _errors(server: IndexServer) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        meant = error_from_rpc(error)
        raise reworded(meant, f"{server.name} at {server.address}: {meant}") from error
