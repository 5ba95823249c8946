"""What the router can reach and how far behind it is."""

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio import Redis

from csr.v1 import control_pb2, shard_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_errors
from services.index.store.placement import IndexServer
from services.index.store.reader import PartitionHead
from services.router.directory import Directory
from services.router.encoder_client import EncoderClient
from services.router.fan_out import partitions_by_server
from services.router.index_servers import IndexServers
from services.runtime.errors import CsrError, StoreUnavailable

_PROBE_SECONDS: Final = 1.0
"""A process that takes longer counts as not reachable, so that status answers while others hang."""

HeldPartitions = Mapping[int, shard_pb2.HeldPartition]


class StatusReport:
    """Asks every process how it is; holds no state of its own."""

    def __init__(
        self, directory: Directory, redis: Redis, redis_url: str, encoder: EncoderClient, servers: IndexServers
    ) -> None:
        self._directory = directory
        self._redis = redis
        self._redis_url = redis_url
        self._encoder = encoder
        self._servers = servers

    async def deployment(self) -> control_pb2.GetStatusResponse:
        """Return the state of Redis, the encoder and every index server of the placement table."""
        try:
            index_servers = self._directory.placement.servers
        except StoreUnavailable:
            index_servers = ()
        redis, encoder, *indexes = await asyncio.gather(
            self._redis_status(), self._encoder_status(), *(self._index_status(server) for server in index_servers)
        )
        processes = [redis[0], encoder[0], *(process for process, _ in indexes)]
        return control_pb2.GetStatusResponse(
            processes=sorted(processes, key=lambda process: process.name),
            max_lag=max((lag for _, lag in indexes), default=0),
        )

    async def partitions(
        self, record: CollectionRecord, heads: list[PartitionHead]
    ) -> list[control_pb2.PartitionState]:
        """Return the heads in the store beside what the index servers have reached, by partition ascending."""
        owned = partitions_by_server(self._directory.placement, record.collection_id, record.partitions)
        held = dict(zip(owned, await asyncio.gather(*(self._held(server, record) for server in owned)), strict=True))
        owner = {partition: server for server, partitions in owned.items() for partition in partitions}
        states = []
        for head in heads:
            server = owner[head.partition]
            reached = held[server].get(head.partition, shard_pb2.HeldPartition())
            states.append(
                control_pb2.PartitionState(
                    partition=head.partition,
                    lsn=head.lsn,
                    documents=head.documents,
                    index_server=server.name,
                    visible_lsn=reached.lsn,
                    ready=reached.ready,
                    staleness_seconds=reached.staleness_seconds,
                )
            )
        return states

    async def _held(self, server: IndexServer, record: CollectionRecord) -> HeldPartitions:
        try:
            status = await self._servers.status(server, record.collection_id, _PROBE_SECONDS)
        except CsrError:
            return {}
        return {held.partition: held for held in status.partitions}

    async def _redis_status(self) -> tuple[control_pb2.ProcessStatus, int]:
        parts = urlsplit(self._redis_url)
        process = control_pb2.ProcessStatus(name="redis", address=f"{parts.hostname}:{parts.port or 6379}")
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                with store_errors("ping"):
                    await self._redis.ping()
            process.ready = True
            process.detail = f"appendfsync {self._directory.policy.appendfsync}"
        except TimeoutError:
            process.detail = f"no answer within {_PROBE_SECONDS:g} s"
        except CsrError as error:
            process.detail = str(error)
        return process, 0

    async def _encoder_status(self) -> tuple[control_pb2.ProcessStatus, int]:
        reason = await self._encoder.not_ready(_PROBE_SECONDS)
        detail = "serves" if reason is None else reason
        return control_pb2.ProcessStatus(
            name="encoder", address=self._encoder.address, ready=reason is None, detail=detail
        ), 0

    async def _index_status(self, server: IndexServer) -> tuple[control_pb2.ProcessStatus, int]:
        """Return how a server is, and the entries that its slowest partition has still to read."""
        process = control_pb2.ProcessStatus(name=server.name, address=server.address)
        try:
            status = await self._servers.status(server, "", _PROBE_SECONDS)
        except CsrError as error:
            process.detail = str(error)
            return process, 0
        held = {(partition.collection_id, partition.partition): partition for partition in status.partitions}
        owned = [
            (record.collection_id, partition)
            for record in self._directory.collections()
            for partition in partitions_by_server(
                self._directory.placement, record.collection_id, record.partitions
            ).get(server, ())
        ]
        ready = sum(key in held and held[key].ready for key in owned)
        lag = max((max(0, partition.head_lsn - partition.lsn) for partition in held.values()), default=0)
        documents = sum(partition.documents for partition in held.values())
        process.ready = ready == len(owned)
        process.detail = f"{ready} of {len(owned)} partitions ready, {documents} documents, lag {lag}"
        return process, lag
