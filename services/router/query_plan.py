"""The queries of a request, checked against the collection. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.index.core.code import levels
from services.index.store.catalog import CollectionRecord
from services.router.validation import Batch, check_count, check_form, check_size, check_texts, vector_count
from services.runtime import limits
from services.runtime.codec import codes_from_proto, embeddings_from_proto
from services.runtime.errors import InvalidRequest, LimitExceeded


class QueryIds(NamedTuple):
    """Stored documents as queries."""

    ids: Sequence[str]
    field: str
    """Name in the request, for error texts."""


Queries = vector_pb2.CodeBatch | NDArray[np.float16] | vector_pb2.TextBatch | QueryIds
"""Codes, checked; embeddings [n, input_dim], rounded as stored ones are, so that equal embeddings meet; texts; ids."""
QueryRequest = search_pb2.SearchRequest | search_pb2.ExplainRequest

_LEAST_LEVEL = 4
"""The fewest latents that an overloaded deployment searches with."""


def checked_queries(request: QueryRequest, field: str | None, most: int, record: CollectionRecord) -> Queries:
    """Return the queries of a request.

    Args:
        request: With queries in one of several fields.
        field: That field; None when none is set.
        most: Queries allowed.
        record: The collection.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded: naming the field and the limit.
        WrongKind: queries that the kind of the collection does not allow.
        FingerprintMismatch: codes of another model than the active generation's.
    """
    by_id = "ids" if isinstance(request, search_pb2.SearchRequest) else "id"
    field = check_form(field, ["codes", by_id] if record.kind == "codes" else _dense_forms(by_id), record)
    batch: Batch | search_pb2.IdBatch = getattr(request, field)
    if isinstance(batch, search_pb2.IdBatch):
        check_count(field, len(batch.ids), most)
        for position, id in enumerate(batch.ids):
            check_size(f"{field}[{position}]", id, limits.ID_BYTES_MAX)
        return QueryIds(batch.ids, field)
    check_count(field, vector_count(batch), most)
    active = record.active
    if isinstance(batch, vector_pb2.CodeBatch):
        codes_from_proto(batch, field, active.hidden_dim, limits.K_QUERY_MAX, active.fingerprint)
        return batch
    if isinstance(batch, vector_pb2.EmbeddingBatch):
        return embeddings_from_proto(batch, field, record.input_dim).astype(np.float16)
    check_texts(batch)
    return batch


def active_latents(request: QueryRequest, queries: Queries, record: CollectionRecord) -> tuple[int, int]:
    """Return k_query and k_docs; stored documents as queries have k_max latents at most.

    Raises:
        InvalidRequest, LimitExceeded: naming the field and the limit.
    """
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
    return min(k_query, record.k_max) if isinstance(queries, QueryIds) else k_query, k_docs


def lowered(k_query: int, k_docs: int) -> tuple[int, int] | None:
    """Return the next lower levels: each the power of two below, but not below 4; None when there are no lower ones."""
    pair = _lower(k_query), _lower(k_docs)
    return None if pair == (k_query, k_docs) else pair


def _lower(k: int) -> int:
    return k if k <= _LEAST_LEVEL else 1 << ((k - 1).bit_length() - 1)


def _dense_forms(by_id: str) -> list[str]:
    return ["embeddings", "texts", "codes", by_id]
