"""What requests of routers say, checked: every error names the field and the limit. Pure."""

from collections.abc import Iterable

from csr.v1 import search_pb2, shard_pb2
from services.index.core.where import Where
from services.index.generation import SearchOptions
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded


def partitions_of(given: Iterable[int]) -> frozenset[int]:
    """Return the partitions of a request.

    Raises:
        InvalidRequest: none, or not ascending.
    """
    listed = list(given)
    if not listed or listed != sorted(set(listed)):
        raise InvalidRequest("partitions: at least one, ascending and none twice")
    return frozenset(listed)


def positions_of(given: Iterable[search_pb2.PartitionPosition]) -> dict[int, int]:
    """Return positions by partition."""
    return {position.partition: position.lsn for position in given}


def search_options(request: shard_pb2.SearchPartitionsRequest, where: Where | None) -> SearchOptions:
    """Return how a request wants to be searched.

    Raises:
        LimitExceeded: top_n or k_query out of range.
    """
    if not 1 <= request.top_n <= limits.TOP_N_MAX:
        raise LimitExceeded(f"top_n: {request.top_n}, must be 1..{limits.TOP_N_MAX}")
    min_score = request.min_score if request.HasField("min_score") else None
    return SearchOptions(request.top_n, _k_query(request.k_query), request.k_docs, min_score, where)


def explain_options(request: shard_pb2.ExplainPartitionsRequest) -> SearchOptions:
    """Return how the scores came about that are to be explained.

    Raises:
        InvalidRequest: no ids, or one twice.
        LimitExceeded: too many, or k_query out of range.
    """
    if not request.ids or len(set(request.ids)) < len(request.ids):
        raise InvalidRequest("ids: at least one, and none twice")
    if len(request.ids) > limits.EXPLAINED_MAX:
        raise LimitExceeded(f"ids: {len(request.ids)}, at most {limits.EXPLAINED_MAX} are allowed")
    return SearchOptions(1, _k_query(request.k_query), request.k_docs)


def scan_limit(request: shard_pb2.ScanPartitionsRequest) -> int:
    """Return how many documents are wanted.

    Raises:
        LimitExceeded: out of range.
    """
    if not 1 <= request.limit <= limits.SCROLL_MAX:
        raise LimitExceeded(f"limit: {request.limit}, must be 1..{limits.SCROLL_MAX}")
    return request.limit


def _k_query(given: int) -> int:
    if not 1 <= given <= limits.K_QUERY_MAX:
        raise LimitExceeded(f"k_query: {given}, must be 1..{limits.K_QUERY_MAX}")
    return given
