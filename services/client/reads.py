"""Reads of documents: arguments become requests, responses become results. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2
from services.client import types
from services.client.arguments import check_numbers, check_texts
from services.client.filters import Where, filter_message
from services.client.searches import payload_of, receipt_of
from services.client.tokens import token_message, token_of
from services.client.types import Token
from services.client.vectors import codes_of
from services.runtime.errors import StoreUnavailable


def get_request(
    collection: str, ids: Sequence[str], include_embeddings: bool, include_codes: bool
) -> search_pb2.GetRequest:
    """Return the request.

    Raises:
        InvalidRequest: something that is no text.
    """
    check_texts("ids", ids)
    return search_pb2.GetRequest(
        collection=collection, ids=ids, include_embeddings=include_embeddings, include_codes=include_codes
    )


def count_request(collection: str, where: Where | None, token: Token | None) -> search_pb2.CountRequest:
    """Return the request.

    Raises:
        InvalidRequest: a filter that cannot be sent.
    """
    return search_pb2.CountRequest(
        collection=collection, where=None if where is None else filter_message(where), token=token_message(token)
    )


def scroll_request(
    collection: str, limit: int, cursor: str, where: Where | None, include_payloads: bool, token: Token | None
) -> search_pb2.ScrollRequest:
    """Return the request.

    Raises:
        InvalidRequest: a limit below 0, or a filter that cannot be sent.
    """
    check_numbers(limit=limit)
    return search_pb2.ScrollRequest(
        collection=collection,
        limit=limit,
        cursor=cursor,
        where=None if where is None else filter_message(where),
        include_payloads=include_payloads,
        token=token_message(token),
    )


def documents(response: search_pb2.GetResponse) -> types.Documents:
    """Translate what Get found."""
    embeddings: Sequence[NDArray[np.float32] | None] = [None] * len(response.documents)
    codes: Sequence[tuple[NDArray[np.uint16], NDArray[np.float32]] | tuple[None, None]]
    codes = [(None, None)] * len(response.documents)
    if response.HasField("embeddings"):
        batch = response.embeddings
        embeddings = list(np.frombuffer(batch.values, "<f4").reshape(batch.count, batch.dim))
    if response.HasField("codes"):
        codes = codes_of(response.codes)
    return types.Documents(
        [
            types.Document(document.id, document.version, payload_of(document.payload_json), embedding, *code)
            for document, embedding, code in zip(response.documents, embeddings, codes, strict=True)
        ],
        list(response.missing),
    )


def count_result(response: search_pb2.CountResponse) -> types.CountResult:
    """Translate a count."""
    return types.CountResult(response.count, token_of(response.token))


def page(response: search_pb2.ScrollResponse) -> types.Page:
    """Translate one page of a scroll."""
    return types.Page(
        [
            types.Document(document.id, document.version, payload_of(document.payload_json))
            for document in response.documents
        ],
        response.next_cursor,
        receipt_of(response.receipt),
    )


def check_payloads(page: types.Page) -> None:
    """Check that documents without a payload have none: an iterator over documents shows no receipts.

    Raises:
        StoreUnavailable: the store could not be read, or one of the records is damaged.
    """
    if page.receipt.payloads_missing:
        first, last = page.documents[0].id, page.documents[-1].id
        raise StoreUnavailable(f"payloads of documents {first!r} to {last!r} could not all be read")
