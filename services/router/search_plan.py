"""What a search request asks for, checked against the collection. Pure."""

import math
from dataclasses import dataclass

from csr.v1 import filter_pb2, search_pb2, vector_pb2
from services.index.filters import where_from_proto
from services.index.store.catalog import CollectionRecord
from services.router.query_plan import Queries, QueryIds, active_latents, checked_queries
from services.router.tokens import token_positions
from services.router.validation import check_number
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded, WrongKind


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
    where: filter_pb2.Filter | None
    positions: dict[int, int]
    """Log positions that must be visible, by partition."""

    @property
    def kept_n(self) -> int:
        """Sparse hits of a query that are kept."""
        return self.rerank or self.top_n

    @property
    def sparse_n(self) -> int:
        """Hits that are asked of every index server: one more where a document's hits are to be without it."""
        return self.kept_n + isinstance(self.queries, QueryIds)

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
    queries = checked_queries(request, request.WhichOneof("queries"), limits.QUERIES_PER_SEARCH_MAX, record)
    by_id = isinstance(queries, QueryIds)
    check_number("top_n", request.top_n, limits.TOP_N_MAX - by_id)
    min_score = request.min_score if request.HasField("min_score") else None
    if min_score is not None and not math.isfinite(min_score):
        raise InvalidRequest(f"min_score: {min_score}, must be finite")
    _check_rerank(request, queries, record)
    k_query, k_docs = active_latents(request, queries, record)
    return SearchPlan(
        queries,
        request.top_n,
        k_query,
        k_docs,
        min_score,
        request.rerank,
        checked_where(request, record),
        token_positions(request.token, record),
    )


def checked_where(
    request: search_pb2.SearchRequest
    | search_pb2.ScrollRequest
    | search_pb2.CountRequest
    | search_pb2.DeleteByFilterRequest,
    record: CollectionRecord,
) -> filter_pb2.Filter | None:
    """Return the filter of a request, to be passed on; None when it has none.

    Raises:
        InvalidRequest, LimitExceeded: naming the place in the filter.
    """
    return None if where_from_proto(request.where, "where", record.fields) is None else request.where


def _check_rerank(request: search_pb2.SearchRequest, queries: Queries, record: CollectionRecord) -> None:
    if request.rerank == 0:
        return
    most = limits.RERANK_MAX - isinstance(queries, QueryIds)
    if record.kind == "codes":
        raise WrongKind(f"rerank: collection {record.name!r} is of kind codes, which keeps no embeddings")
    if isinstance(queries, vector_pb2.CodeBatch):
        raise InvalidRequest("rerank: needs embeddings, texts or ids as queries, not codes")
    if request.rerank < request.top_n:
        raise InvalidRequest(f"rerank: {request.rerank}, must be 0 or top_n ({request.top_n})..{most}")
    if request.rerank > most:
        raise LimitExceeded(f"rerank: {request.rerank}, at most {most} is allowed")
