"""Searches: resolve and pin, encode, fan out, merge, re-rank, fetch payloads."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.fan_out import Answers, FanOut, PartitionQuery
from services.router.hit_documents import HitDocuments
from services.router.merge import Scored, merge
from services.router.query_vectors import QuerySource, QueryVectors
from services.router.receipts import receipt_message
from services.router.search_plan import SearchPlan, plan_search
from services.runtime import metrics
from services.runtime.errors import CsrError, WrongOwner

_REFRESH_SHARE: Final = 0.2
"""Of the time left, to read the placement again when a partial answer would do as well."""


class SearchPath:
    """Carries out searches; holds no state of its own."""

    def __init__(self, directory: Directory, queries: QuerySource, fan_out: FanOut, documents: HitDocuments) -> None:
        self._directory = directory
        self._queries = queries
        self._fan_out = fan_out
        self._documents = documents

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
        with _phase("encode"):
            vectors = await self._queries.vectors(
                record, plan.queries, plan.k_query, request.allow_truncation, deadline
            )
        with _phase("fan_out"):
            answers = await self._answers(_partition_query(record, request, plan, vectors), deadline)
        hits = await _merged(plan, vectors, answers)
        if plan.rerank and vectors.embeddings is not None:
            with _phase("rerank"):
                hits = await self._documents.reranked(record, plan, vectors.embeddings, hits)
        response = search_pb2.SearchResponse(receipt=_receipt(record, plan, answers))
        payloads = None
        if request.include_payloads:
            with _phase("payloads"):
                uses = Counter(hit.id for query_hits in hits for hit in query_hits)
                payloads = await self._documents.payloads(record, uses, deadline)
                response.receipt.payloads_missing = payloads.missing
        for query_hits in hits:
            response.results.append(_hits_message(query_hits, {} if payloads is None else payloads.payloads))
            await asyncio.sleep(0)
        return response

    async def _answers(self, query: PartitionQuery, deadline: Deadline) -> Answers:
        placement = self._directory.placement
        answers = await self._fan_out.search(placement, query, deadline)
        if any(isinstance(failure, WrongOwner) for failure in answers.failures):
            # A strict search raises WrongOwner and is repeated as a whole; a partial one must survive a store that
            # is down, which keeps the new placement to itself.
            with suppress(CsrError, TimeoutError):
                async with asyncio.timeout(_REFRESH_SHARE * deadline.remaining()):
                    await self._directory.refresh()
            if self._directory.placement != placement:
                answers = await self._fan_out.search(self._directory.placement, query, deadline)
        self._directory.saw(query.record.collection_id, answers.positions)
        return answers


def _partition_query(
    record: CollectionRecord, request: search_pb2.SearchRequest, plan: SearchPlan, vectors: QueryVectors
) -> PartitionQuery:
    return PartitionQuery(
        record=record,
        codes=vectors.codes,
        top_n=plan.sparse_n,
        k_query=plan.k_query,
        k_docs=plan.k_docs,
        min_score=plan.sparse_min_score,
        where=plan.where,
        positions=plan.positions,
        allow_partial=request.allow_partial,
        allow_lower_k=request.allow_lower_k,
    )


async def _merged(plan: SearchPlan, vectors: QueryVectors, answers: Answers) -> list[list[Scored]]:
    """Return the best sparse hits of each query, without the document that the query is."""
    hits: list[list[Scored]] = []
    for row in range(vectors.codes.count):
        merged = merge((response.results[row] for response in answers.responses), plan.sparse_n)
        if vectors.own_ids:
            merged = [hit for hit in merged if hit.id != vectors.own_ids[row]][: plan.kept_n]
        hits.append(merged)
        await asyncio.sleep(0)  # 256 queries with 1,000 hits each must not hold up all other requests
    return hits


def _phase(name: str) -> AbstractContextManager[object]:
    return metrics.histogram(metrics.SEARCH_PHASE_SECONDS).labels(name).time()


def _receipt(record: CollectionRecord, plan: SearchPlan, answers: Answers) -> search_pb2.Receipt:
    query = answers.query
    receipt = receipt_message(
        record, record.active, answers.positions, answers.staleness_seconds, query.k_query, query.k_docs
    )
    receipt.missing_partitions.extend(sorted(set(range(record.partitions)) - answers.positions.keys()))
    receipt.coverage = len(answers.positions) / record.partitions
    receipt.k_lowered = (query.k_query, query.k_docs) != (plan.k_query, plan.k_docs)
    if receipt.missing_partitions:
        metrics.counter(metrics.SEARCHES_PARTIAL).inc()
    if receipt.k_lowered:
        metrics.counter(metrics.SEARCHES_LOWERED).inc()
    return receipt


def _hits_message(hits: Sequence[Scored], payloads: Mapping[str, str]) -> search_pb2.QueryHits:
    return search_pb2.QueryHits(
        hits=[search_pb2.Hit(id=hit.id, score=hit.score, payload_json=payloads.get(hit.id, "")) for hit in hits]
    )
