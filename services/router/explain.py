"""Explain: which latents make up the scores of documents."""

from csr.v1 import search_pb2, shard_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.keys import partition_of
from services.index.store.placement import IndexServer
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.fan_out import ask_owners, owners_of, worst_staleness
from services.router.index_servers import IndexServers
from services.router.query_plan import active_latents, checked_queries
from services.router.query_vectors import QuerySource
from services.router.receipts import receipt_message
from services.router.tokens import highest, position_messages, token_positions
from services.router.validation import check_ids
from services.router.write_request import rows_by_partition
from services.runtime import limits


class Explain:
    """Carries out Explain; holds no state of its own."""

    def __init__(self, directory: Directory, queries: QuerySource, servers: IndexServers) -> None:
        self._directory = directory
        self._queries = queries
        self._servers = servers

    async def explain(self, request: search_pb2.ExplainRequest, deadline: Deadline) -> search_pb2.ExplainResponse:
        """Explain what a search would score some documents.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(
            request.collection, lambda record: self._explain(record, request, deadline)
        )

    async def _explain(
        self, record: CollectionRecord, request: search_pb2.ExplainRequest, deadline: Deadline
    ) -> search_pb2.ExplainResponse:
        check_ids(request.ids, limits.EXPLAINED_MAX, unique=False)
        queries = checked_queries(request, request.WhichOneof("query"), 1, record)
        k_query, k_docs = active_latents(request, queries, record)
        positions = token_positions(request.token, record)
        vectors = await self._queries.vectors(record, queries, k_query, request.allow_truncation, deadline)
        timeout = deadline.remaining()

        async def ask(server: IndexServer, partitions: tuple[int, ...]) -> shard_pb2.ExplainPartitionsResponse:
            return await self._servers.explain(
                server,
                shard_pb2.ExplainPartitionsRequest(
                    collection_id=record.collection_id,
                    generation=record.active.generation,
                    partitions=partitions,
                    codes=vectors.codes,
                    ids=[id for id in wanted if partition_of(id, record.partitions) in partitions],
                    k_query=k_query,
                    k_docs=k_docs,
                    positions=position_messages(positions, partitions),
                ),
                timeout,
            )

        wanted = list(dict.fromkeys(request.ids))
        partitions = sorted(rows_by_partition(wanted, record.partitions))
        responses = await ask_owners(owners_of(self._directory.placement, record.collection_id, partitions), ask)
        explained = {explanation.id: explanation for response in responses for explanation in response.explanations}
        reached = highest(position for response in responses for position in response.positions)
        self._directory.saw(record.collection_id, reached)
        return search_pb2.ExplainResponse(
            explanations=[explained[id] for id in request.ids],
            receipt=receipt_message(record, record.active, reached, worst_staleness(responses), k_query, k_docs),
        )
