"""Waiting until searches see a write."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from csr.v1 import shard_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.placement import IndexServer
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.fan_out import ask_owners, owners_of
from services.router.index_servers import IndexServers
from services.router.tokens import position_messages
from services.runtime.errors import CsrError

_WAIT_SHARE: Final = 0.9
"""Of the time left: the write is stored, and that must still be told."""
_RETRY_SECONDS: Final = 0.1


class Visibility:
    """Asks index servers how far they are; holds no state of its own."""

    def __init__(self, directory: Directory, servers: IndexServers) -> None:
        self._directory = directory
        self._servers = servers

    async def reached(self, record: CollectionRecord, positions: Mapping[int, int], deadline: Deadline) -> bool:
        """Return True as soon as searches of all generations see these positions, False when time runs out.

        A server that does not answer, or whose partitions moved, is asked again: the write itself is stored.
        """
        with suppress(TimeoutError, CsrError):
            async with asyncio.timeout(_WAIT_SHARE * deadline.remaining()):
                while not await self._reached(record, positions, deadline):
                    await asyncio.sleep(_RETRY_SECONDS)
                return True
        return False

    async def _reached(self, record: CollectionRecord, positions: Mapping[int, int], deadline: Deadline) -> bool:
        timeout = deadline.remaining()

        async def ask(server: IndexServer, partitions: tuple[int, ...]) -> None:
            request = shard_pb2.AwaitPositionsRequest(
                collection_id=record.collection_id, positions=position_messages(positions, partitions)
            )
            await self._servers.reach(server, request, timeout)

        with suppress(CsrError):
            await ask_owners(owners_of(self._directory.placement, record.collection_id, sorted(positions)), ask)
            return True
        return False
