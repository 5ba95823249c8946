"""Searches: resolve and pin, encode, fan out, merge, re-rank, fetch payloads."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.reader import DocumentReader
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.encoder_client import EncoderClient
from services.router.fan_out import Answers, IndexServers, PartitionQuery
from services.router.merge import Scored, merge
from services.router.rerank import rerank
from services.router.search_plan import SearchPlan, plan_search
from services.router.tokens import token_message
from services.runtime import limits, metrics
from services.runtime.errors import LimitExceeded, StoreUnavailable, WrongState

log = structlog.get_logger()

_DOCUMENTS_PER_READ: Final = 1_000
"""Bounds the memory of re-ranking and payloads: 256 queries with 1,000 hits each name up to 256,000 documents."""
_PAYLOAD_SHARE: Final = 0.5
"""Of the time left, for payloads: a store that hangs must not cost the caller hits that are ready."""


class SearchPath:
    """Carries out searches; holds no state of its own."""

    def __init__(
        self, directory: Directory, encoder: EncoderClient, servers: IndexServers, reader: DocumentReader
    ) -> None:
        self._directory = directory
        self._encoder = encoder
        self._servers = servers
        self._reader = reader

    async def search(self, request: search_pb2.SearchRequest, deadline: Deadline) -> search_pb2.SearchResponse:
        """Answer all queries of a request by one generation.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(
            request.collection, lambda record: self._search(record, request, deadline)
        )

    async def _search(
        self, record: CollectionRecord, request: search_pb2.SearchRequest, deadline: Deadline
    ) -> search_pb2.SearchResponse:
        with _phase("resolve"):
            plan = plan_search(request, record)
            placement = self._directory.placement
        with _phase("encode"):
            codes, embeddings = await self._encoded(record, plan, request.allow_truncation, deadline)
        with _phase("fan_out"):
            query = PartitionQuery(
                record,
                record.active,
                codes,
                plan.sparse_n,
                plan.k_query,
                plan.k_docs,
                plan.sparse_min_score,
                plan.positions,
            )
            answers = await self._servers.search(placement, query, deadline.remaining())
            self._directory.saw(record.collection_id, answers.positions)
        hits: list[list[Scored]] = []
        for row in range(codes.count):
            hits.append(merge((response.results[row] for response in answers.responses), plan.sparse_n))
            await asyncio.sleep(0)  # 256 queries with 1,000 hits each must not hold up all other requests
        if plan.rerank and embeddings is not None:
            with _phase("rerank"):
                hits = await self._reranked(record, plan, embeddings, hits)
        response = search_pb2.SearchResponse(receipt=_receipt(record, plan, answers))
        payloads: dict[str, str] = {}
        if request.include_payloads:
            with _phase("payloads"):
                payloads = await self._payloads(record, hits, response.receipt, deadline)
        for query_hits in hits:
            response.results.append(_hits_message(query_hits, payloads))
            await asyncio.sleep(0)
        return response

    async def _encoded(
        self, record: CollectionRecord, plan: SearchPlan, allow_truncation: bool, deadline: Deadline
    ) -> tuple[vector_pb2.CodeBatch, NDArray[np.float32] | None]:
        """Return the queries as codes, and as embeddings unless they came as codes."""
        queries, active = plan.queries, record.active
        if isinstance(queries, vector_pb2.CodeBatch):
            return queries, None
        if isinstance(queries, vector_pb2.TextBatch):
            encoded = await self._encoder.encode_texts(
                active, queries, plan.k_query, allow_truncation, deadline.remaining()
            )
        else:
            encoded = await self._encoder.encode_embeddings(active, queries, plan.k_query, deadline.remaining())
        return encoded.codes, encoded.embeddings

    async def _reranked(
        self, record: CollectionRecord, plan: SearchPlan, queries: NDArray[np.float32], hits: list[list[Scored]]
    ) -> list[list[Scored]]:
        """Score the sparse hits again with stored embeddings, a few queries at a time."""
        reranked: list[list[Scored]] = []
        step = max(1, _DOCUMENTS_PER_READ // plan.rerank)
        for start in range(0, len(hits), step):
            rows = range(start, min(start + step, len(hits)))
            documents = await self._reader.get(record, sorted({hit.id for row in rows for hit in hits[row]}))
            stored = {
                document.id: document.body.embedding
                for document in documents
                if document is not None and document.body.embedding is not None
            }
            for row in rows:
                candidates = [hit.id for hit in hits[row]]
                reranked.append(
                    await asyncio.to_thread(rerank, queries[row], candidates, stored, plan.top_n, plan.min_score)
                )
        return reranked

    async def _payloads(
        self,
        record: CollectionRecord,
        hits: Sequence[Sequence[Scored]],
        receipt: search_pb2.Receipt,
        deadline: Deadline,
    ) -> dict[str, str]:
        """Return the payloads of hits by id; none, and a mark in the receipt, when the store cannot be read."""
        uses = Counter(hit.id for query_hits in hits for hit in query_hits)
        ids = sorted(uses)
        payloads: dict[str, str] = {}
        size = 0
        try:
            async with asyncio.timeout(_PAYLOAD_SHARE * deadline.remaining()):
                for start in range(0, len(ids), _DOCUMENTS_PER_READ):
                    for document in await self._reader.get(record, ids[start : start + _DOCUMENTS_PER_READ]):
                        if document is not None:
                            size += len(document.body.payload) * uses[document.id]
                            payloads[document.id] = document.body.payload.decode()
                    if size > limits.RESPONSE_BYTES_MAX:
                        raise LimitExceeded(
                            f"include_payloads: the payloads of {uses.total()} hits exceed the "
                            f"{limits.RESPONSE_BYTES_MAX} bytes of an answer, ask for fewer hits at a time"
                        )
        except (StoreUnavailable, WrongState, TimeoutError) as error:  # down, or started without its data
            log.warning("hits go without payloads", reason=str(error) or "the store did not answer in time")
            receipt.payloads_missing = True
            return {}
        return payloads


def _phase(name: str) -> AbstractContextManager[object]:
    return metrics.histogram(metrics.SEARCH_PHASE_SECONDS).labels(name).time()


def _receipt(record: CollectionRecord, plan: SearchPlan, answers: Answers) -> search_pb2.Receipt:
    active = record.active
    return search_pb2.Receipt(
        collection_id=record.collection_id,
        generation=active.generation,
        model=vector_pb2.ModelVersion(
            name=active.model_name, version=active.model_version, fingerprint=active.fingerprint
        ),
        k_query=plan.k_query,
        k_docs=plan.k_docs,
        coverage=len(answers.positions) / record.partitions,
        token=token_message(record.collection_id, answers.positions),
    )


def _hits_message(hits: Sequence[Scored], payloads: dict[str, str]) -> search_pb2.QueryHits:
    return search_pb2.QueryHits(
        hits=[search_pb2.Hit(id=hit.id, score=hit.score, payload_json=payloads.get(hit.id, "")) for hit in hits]
    )
