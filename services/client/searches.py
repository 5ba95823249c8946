"""Searches and explanations: arguments become requests, responses become results. Pure."""

import json
from collections.abc import Sequence
from typing import Any

from csr.v1 import search_pb2, vector_pb2
from services.client import types
from services.client.arguments import check_numbers, check_texts
from services.client.filters import Where, filter_message
from services.client.tokens import token_message, token_of
from services.client.types import Codes, Floats, Token
from services.client.vectors import one_form, with_vectors


def search_request(
    collection: str,
    *,
    embeddings: Floats | None = None,
    texts: Sequence[str] | None = None,
    codes: Codes | None = None,
    ids: Sequence[str] | None = None,
    top_n: int = 10,
    k: int = 0,
    k_query: int = 0,
    k_docs: int = 0,
    where: Where | None = None,
    min_score: float | None = None,
    rerank: int = 0,
    include_payloads: bool = False,
    token: Token | None = None,
    allow_truncation: bool = False,
    allow_partial: bool = False,
    allow_lower_k: bool = False,
) -> search_pb2.SearchRequest:
    """Return the request; see search.proto for what 0 means.

    Raises:
        InvalidRequest: not exactly one form of queries, a number below 0, or a filter that cannot be sent.
    """
    check_numbers(top_n=top_n, k=k, k_query=k_query, k_docs=k_docs, rerank=rerank)
    request = search_pb2.SearchRequest(
        collection=collection,
        top_n=top_n,
        k=k,
        k_query=k_query,
        k_docs=k_docs,
        where=None if where is None else filter_message(where),
        min_score=min_score,
        rerank=rerank,
        include_payloads=include_payloads,
        token=token_message(token),
        allow_truncation=allow_truncation,
        allow_partial=allow_partial,
        allow_lower_k=allow_lower_k,
    )
    vectors = one_form(embeddings, texts, codes, ids=ids)
    if vectors is not None:
        return with_vectors(request, vectors, slice(None))
    request.ids.CopyFrom(_id_batch("ids", ids))
    return request


def explain_request(
    collection: str,
    ids: Sequence[str],
    *,
    embeddings: Floats | None = None,
    texts: Sequence[str] | None = None,
    codes: Codes | None = None,
    query_id: str | None = None,
    k: int = 0,
    k_query: int = 0,
    k_docs: int = 0,
    token: Token | None = None,
    allow_truncation: bool = False,
) -> search_pb2.ExplainRequest:
    """Return the request; see search.proto for what 0 means.

    Raises:
        InvalidRequest: not exactly one form of the query, something that is no text, or a number below 0.
    """
    check_texts("ids", ids)
    check_numbers(k=k, k_query=k_query, k_docs=k_docs)
    request = search_pb2.ExplainRequest(
        collection=collection,
        ids=ids,
        k=k,
        k_query=k_query,
        k_docs=k_docs,
        token=token_message(token),
        allow_truncation=allow_truncation,
    )
    query_ids = None if query_id is None else [query_id]
    vectors = one_form(embeddings, texts, codes, query_id=query_ids)
    if vectors is not None:
        return with_vectors(request, vectors, slice(None))
    request.id.CopyFrom(_id_batch("query_id", query_ids))
    return request


def search_result(response: search_pb2.SearchResponse) -> types.SearchResult:
    """Translate hits and receipt."""
    return types.SearchResult(
        [
            [types.Hit(hit.id, hit.score, payload_of(hit.payload_json)) for hit in query_hits.hits]
            for query_hits in response.results
        ],
        receipt_of(response.receipt),
    )


def explanations(response: search_pb2.ExplainResponse) -> types.Explanations:
    """Translate explanations and receipt."""
    return types.Explanations(
        [
            types.Explanation(
                each.id,
                each.found,
                each.score,
                [
                    types.Contribution(part.latent, part.query_weight, part.document_weight, part.contribution)
                    for part in each.contributions
                ],
            )
            for each in response.explanations
        ],
        receipt_of(response.receipt),
    )


def receipt_of(message: search_pb2.Receipt) -> types.Receipt:
    """Translate a receipt."""
    return types.Receipt(
        collection_id=message.collection_id,
        generation=message.generation,
        model=model_of(message.model),
        k_query=message.k_query,
        k_docs=message.k_docs,
        coverage=message.coverage,
        token=token_of(message.token),
        payloads_missing=message.payloads_missing,
        missing_partitions=list(message.missing_partitions),
        staleness_seconds=message.staleness_seconds,
        k_lowered=message.k_lowered,
    )


def payload_of(text: str) -> dict[str, Any] | None:
    """Return the object behind a stored payload, None when none was stored."""
    if not text:
        return None
    payload: dict[str, Any] = json.loads(text)
    return payload


def model_of(message: vector_pb2.ModelVersion) -> types.Model:
    """Translate a model version."""
    return types.Model(message.name, message.version, message.fingerprint)


def _id_batch(field: str, ids: Sequence[str] | None) -> search_pb2.IdBatch:
    check_texts(field, ids or [])
    return search_pb2.IdBatch(ids=ids)
