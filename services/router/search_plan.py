"""What a search request asks for, checked against the collection. Pure."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.index.core.code import levels
from services.index.store.catalog import CollectionRecord
from services.router.tokens import token_positions
from services.router.validation import (
    batch_of,
    check_count,
    check_number,
    check_texts,
    vector_count,
)
from services.runtime import limits
from services.runtime.codec import codes_from_proto, embeddings_from_proto
from services.runtime.errors import InvalidRequest, LimitExceeded, WrongKind

Queries = vector_pb2.CodeBatch | NDArray[np.float16] | vector_pb2.TextBatch
"""Codes, checked; embeddings [n, input_dim], rounded as stored ones are, so that equal embeddings meet; or texts."""


@dataclass(frozen=True)
class SearchPlan:
    """A search that can be carried out."""

    queries: Queries
    top_n: int
    k_query: int
    k_docs: int
    min_score: float | None
    rerank: int
    """Sparse hits to score again per query; 0: none."""
    positions: dict[int, int]
    """Log positions that must be visible, by partition."""

    @property
    def sparse_n(self) -> int:
        """Hits that are asked of every index server."""
        return self.rerank or self.top_n

    @property
    def sparse_min_score(self) -> float | None:
        """Least score of sparse hits; with re-ranking min_score is about the final score."""
        return None if self.rerank else self.min_score


def plan_search(request: search_pb2.SearchRequest, record: CollectionRecord) -> SearchPlan:
    """Check a search request.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded: naming the field and the limit.
        WrongKind: queries or re-ranking that the kind of the collection does not allow.
        FingerprintMismatch: codes of another model than the active generation's.
        WrongState: the token belongs to another collection.
    """
    queries = _checked_queries(request, record)
    check_number("top_n", request.top_n, limits.TOP_N_MAX)
    min_score = request.min_score if request.HasField("min_score") else None
    if min_score is not None and not math.isfinite(min_score):
        raise InvalidRequest(f"min_score: {min_score}, must be finite")
    _check_rerank(request, queries, record)
    k_query, k_docs = _active_latents(request, record)
    positions = token_positions(request.token, record)
    return SearchPlan(queries, request.top_n, k_query, k_docs, min_score, request.rerank, positions)


def _checked_queries(request: search_pb2.SearchRequest, record: CollectionRecord) -> Queries:
    allowed = ["codes"] if record.kind == "codes" else ["embeddings", "texts", "codes"]
    field, queries = batch_of(request, allowed, record)
    check_count(field, vector_count(queries), limits.QUERIES_PER_SEARCH_MAX)
    active = record.active
    if isinstance(queries, vector_pb2.CodeBatch):
        codes_from_proto(queries, "codes", active.hidden_dim, limits.K_QUERY_MAX, active.fingerprint)
        return queries
    if isinstance(queries, vector_pb2.EmbeddingBatch):
        return embeddings_from_proto(queries, "embeddings", record.input_dim).astype(np.float16)
    check_texts(queries)
    return queries


def _check_rerank(request: search_pb2.SearchRequest, queries: Queries, record: CollectionRecord) -> None:
    if request.rerank == 0:
        return
    if record.kind == "codes":
        raise WrongKind(f"rerank: collection {record.name!r} is of kind codes, which keeps no embeddings")
    if isinstance(queries, vector_pb2.CodeBatch):
        raise InvalidRequest("rerank: needs embeddings or texts as queries, not codes")
    if request.rerank < request.top_n:
        raise InvalidRequest(f"rerank: {request.rerank}, must be 0 or top_n ({request.top_n})..{limits.RERANK_MAX}")
    if request.rerank > limits.RERANK_MAX:
        raise LimitExceeded(f"rerank: {request.rerank}, at most {limits.RERANK_MAX} is allowed")


def _active_latents(request: search_pb2.SearchRequest, record: CollectionRecord) -> tuple[int, int]:
    """Return k_query and k_docs."""
    k = request.k or record.k_max
    k_query = request.k_query or k
    k_docs = request.k_docs or k
    query_field = "k_query" if request.k_query else "k"
    docs_field = "k_docs" if request.k_docs else "k"
    if k_query > limits.K_QUERY_MAX:
        raise LimitExceeded(f"{query_field}: {k_query}, queries use at most {limits.K_QUERY_MAX} latents")
    if k_docs > record.k_max:
        raise LimitExceeded(f"{docs_field}: {k_docs}, documents of {record.name!r} keep at most {record.k_max} latents")
    allowed = levels(record.k_max)
    if k_docs not in allowed:
        raise InvalidRequest(f"{docs_field}: {k_docs}, documents answer at {', '.join(map(str, allowed))} latents")
    return k_query, k_docs
