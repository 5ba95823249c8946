"""Documents by id, page by page, over all index servers."""

from collections.abc import Mapping
from dataclasses import dataclass

from csr.v1 import filter_pb2, shard_pb2
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.placement import IndexServer
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.fan_out import ask_owners, partitions_by_server, worst_staleness
from services.router.index_servers import IndexServers
from services.router.tokens import highest, position_messages


@dataclass(frozen=True)
class Page:
    """Documents by id ascending (as UTF-8 bytes).

    Attributes:
        versions: By id, in that order.
        more: There may be documents behind the last one.
        positions: Log positions that the page is exact at.
        staleness_seconds: Worst of all servers.
    """

    versions: dict[str, int]
    more: bool
    positions: Mapping[int, int]
    staleness_seconds: float

    @property
    def last_id(self) -> str:
        """The id behind which the next page begins; of a page that is not empty."""
        return next(reversed(self.versions))


class Scan:
    """Asks all index servers for documents; holds no state of its own."""

    def __init__(self, directory: Directory, servers: IndexServers) -> None:
        self._directory = directory
        self._servers = servers

    async def page(
        self,
        record: CollectionRecord,
        generation: GenerationRecord,
        after: str,
        limit: int,
        where: filter_pb2.Filter | None,
        positions: Mapping[int, int],
        deadline: Deadline,
    ) -> Page:
        """Return the first documents behind an id.

        Args:
            record: The collection.
            generation: One of its generations.
            after: Only ids behind this one; empty for all.
            limit: Most documents, 1..1,000.
            where: Only documents that match; None: all.
            positions: Log positions that must be visible, by partition.
            deadline: Of the request.

        Raises:
            PartitionUnavailable, WrongOwner, DeadlineSpent: a server does not answer for its partitions.
        """
        timeout = deadline.remaining()

        async def ask(server: IndexServer, partitions: tuple[int, ...]) -> shard_pb2.ScanPartitionsResponse:
            request = shard_pb2.ScanPartitionsRequest(
                collection_id=record.collection_id,
                generation=generation.generation,
                partitions=partitions,
                after=after,
                limit=limit,
                where=where,
                positions=position_messages(positions, partitions),
            )
            return await self._servers.scan(server, request, timeout)

        owned = partitions_by_server(self._directory.placement, record.collection_id, record.partitions)
        responses = await ask_owners(owned, ask)
        reached = highest(position for response in responses for position in response.positions)
        self._directory.saw(record.collection_id, reached)
        # Python orders str by code points, which is the order of their UTF-8 bytes.
        found = sorted(pair for response in responses for pair in zip(response.ids, response.versions, strict=True))
        more = len(found) > limit or any(len(response.ids) == limit for response in responses)
        return Page(dict(found[:limit]), more, reached, worst_staleness(responses))
