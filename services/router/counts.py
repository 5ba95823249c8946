"""Count: all documents from the store, what matches a filter from the index servers."""

from csr.v1 import filter_pb2, search_pb2, shard_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.placement import IndexServer
from services.index.store.reader import DocumentReader
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.fan_out import ask_owners, partitions_by_server
from services.router.index_servers import IndexServers
from services.router.search_plan import checked_where
from services.router.tokens import highest, position_messages, token_message, token_positions
from services.runtime.errors import WrongState


class Counts:
    """Carries out Count; holds no state of its own."""

    def __init__(self, directory: Directory, reader: DocumentReader, servers: IndexServers) -> None:
        self._directory = directory
        self._reader = reader
        self._servers = servers

    async def count(self, request: search_pb2.CountRequest, deadline: Deadline) -> search_pb2.CountResponse:
        """Return the number of live documents, at the positions of the token or later ones.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """

        async def count(record: CollectionRecord) -> search_pb2.CountResponse:
            where = checked_where(request, record)
            wanted = token_positions(request.token, record)
            if where is None:
                counted, positions = await self._stored(record, wanted)
            else:
                counted, positions = await self._matching(record, where, wanted, deadline)
            self._directory.saw(record.collection_id, positions)
            return search_pb2.CountResponse(count=counted, token=token_message(record.collection_id, positions))

        return await self._directory.answered(request.collection, count)

    async def _stored(self, record: CollectionRecord, wanted: dict[int, int]) -> tuple[int, dict[int, int]]:
        heads = await self._reader.heads(record)
        for head in heads:
            if head.lsn < wanted.get(head.partition, 0):
                raise WrongState(
                    f"token.positions: partition {head.partition} ends at {head.lsn}, not {wanted[head.partition]}: "
                    "the store lost acknowledged writes"
                )
        return sum(head.documents for head in heads), {head.partition: head.lsn for head in heads}

    async def _matching(
        self, record: CollectionRecord, where: filter_pb2.Filter, wanted: dict[int, int], deadline: Deadline
    ) -> tuple[int, dict[int, int]]:
        timeout = deadline.remaining()

        async def ask(server: IndexServer, partitions: tuple[int, ...]) -> shard_pb2.CountPartitionsResponse:
            request = shard_pb2.CountPartitionsRequest(
                collection_id=record.collection_id,
                generation=record.active.generation,
                partitions=partitions,
                where=where,
                positions=position_messages(wanted, partitions),
            )
            return await self._servers.count(server, request, timeout)

        owned = partitions_by_server(self._directory.placement, record.collection_id, record.partitions)
        responses = await ask_owners(owned, ask)
        positions = highest(position for response in responses for position in response.positions)
        return sum(response.count for response in responses), positions
