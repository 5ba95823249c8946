"""Writes: arguments become requests, responses become results. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from csr.v1 import search_pb2
from services.client import types
from services.client.arguments import check_ids, check_lengths, check_versions, length, payload_json
from services.client.filters import Where, filter_message
from services.client.tokens import joined, token_message, token_of
from services.client.types import Payload, Token
from services.client.vectors import Vectors, one_form, vector_bytes, vector_count, with_vectors
from services.runtime import limits

_BATCH_BYTES_MAX: Final = limits.REQUEST_BYTES_MAX - (64 << 10)
"""Leaves room for what a request holds beside documents."""
_DOCUMENT_OVERHEAD_BYTES: Final = 32
"""At most, for tags, lengths and the version of one document."""
_STATUS: Final[dict[int, types.WriteStatus]] = {
    search_pb2.WRITE_STATUS_APPLIED: "applied",
    search_pb2.WRITE_STATUS_UNCHANGED: "unchanged",
    search_pb2.WRITE_STATUS_STALE: "stale",
    search_pb2.WRITE_STATUS_CONFLICT: "conflict",
    search_pb2.WRITE_STATUS_MISSING: "missing",
    search_pb2.WRITE_STATUS_INVALID: "invalid",
}

Documents = TypeVar("Documents", search_pb2.UpsertRequest, search_pb2.UpsertChunk)
Answer = search_pb2.UpsertResponse | search_pb2.UpdatePayloadsResponse | search_pb2.DeleteResponse


class Upsert:
    """Documents to store, checked, in slices that keep to the limits of one message.

    Raises:
        InvalidRequest: no ids, lists of other lengths, not exactly one form of vectors, something that is no text,
            a version out of range, or a payload that is not JSON.
    """

    def __init__(self, batch: types.Batch) -> None:
        check_ids(batch.ids)
        check_versions(batch.versions)
        vectors = one_form(batch.embeddings, batch.texts, batch.codes)
        assert vectors is not None, "no ids were given"
        self._vectors: Vectors = vectors
        check_lengths(
            batch.ids, vectors=vector_count(vectors), payloads=length(batch.payloads), versions=length(batch.versions)
        )
        self._ids, self._versions = batch.ids, batch.versions
        self._payloads = None
        if batch.payloads is not None:
            self._payloads = [payload_json(position, payload) for position, payload in enumerate(batch.payloads)]
        self.slices = list(batch_slices(_sizes(self._ids, vector_bytes(vectors), self._payloads)))

    def put(self, message: Documents, rows: slice) -> Documents:
        """Put one slice into a message and return it."""
        message.ids.extend(self._ids[rows])
        if self._payloads is not None:
            message.payloads_json.extend(self._payloads[rows])
        if self._versions is not None:
            message.versions.extend(self._versions[rows])
        return with_vectors(message, self._vectors, rows)


def upsert_requests(
    collection: str, batch: types.Batch, write_id: str, allow_truncation: bool, wait: bool
) -> Iterator[search_pb2.UpsertRequest]:
    """Yield requests that keep to the limits of one message, in order, built as they are taken.

    Their write ids follow from write_id and their position, so the same arguments make the same requests.

    Raises:
        InvalidRequest: see Upsert.
    """
    upsert = Upsert(batch)
    for rows, part_id in _named(upsert.slices, write_id):
        request = search_pb2.UpsertRequest(
            collection=collection, write_id=part_id, allow_truncation=allow_truncation, wait=wait
        )
        yield upsert.put(request, rows)


def update_payloads_requests(
    collection: str,
    ids: Sequence[str],
    payloads: Sequence[Payload | None],
    versions: Sequence[int] | None,
    write_id: str,
    wait: bool,
) -> Iterator[search_pb2.UpdatePayloadsRequest]:
    """Yield requests that keep to the limits of one message; see upsert_requests.

    Raises:
        InvalidRequest: no ids or something that is no text, not one payload and version per id, or a payload that is
            not JSON.
    """
    check_ids(ids)
    check_versions(versions)
    check_lengths(ids, payloads=len(payloads), versions=length(versions))
    encoded = ["" if payload is None else payload_json(position, payload) for position, payload in enumerate(payloads)]
    for rows, part_id in _named(list(batch_slices(_sizes(ids, [0] * len(ids), encoded))), write_id):
        yield search_pb2.UpdatePayloadsRequest(
            collection=collection,
            ids=ids[rows],
            payloads_json=encoded[rows],
            versions=None if versions is None else versions[rows],
            write_id=part_id,
            wait=wait,
        )


def delete_requests(
    collection: str, ids: Sequence[str], versions: Sequence[int] | None, write_id: str, wait: bool
) -> Iterator[search_pb2.DeleteRequest]:
    """Yield requests that keep to the limits of one message; see upsert_requests.

    Raises:
        InvalidRequest: no ids or something that is no text, or not one version per id.
    """
    check_ids(ids)
    check_versions(versions)
    check_lengths(ids, versions=length(versions))
    for rows, part_id in _named(list(batch_slices(_sizes(ids, [0] * len(ids), None))), write_id):
        yield search_pb2.DeleteRequest(
            collection=collection,
            ids=ids[rows],
            versions=None if versions is None else versions[rows],
            write_id=part_id,
            wait=wait,
        )


def delete_where_request(
    collection: str, where: Where, version: int, token: Token | None, wait: bool
) -> search_pb2.DeleteByFilterRequest:
    """Return the request.

    Raises:
        InvalidRequest: a filter or version that cannot be sent.
    """
    if version:
        check_versions([version])
    return search_pb2.DeleteByFilterRequest(
        collection=collection, where=filter_message(where), version=version, token=token_message(token), wait=wait
    )


def write_result(answers: Sequence[Answer], write_id: str) -> types.WriteResult:
    """Join the responses to the parts of one write, at least one."""
    return types.WriteResult(
        [result for answer in answers for result in document_writes(answer.results)],
        joined(answer.token for answer in answers),
        write_id,
        all(answer.visible for answer in answers),
    )


def document_writes(results: Sequence[search_pb2.WriteResult]) -> list[types.DocumentWrite]:
    """Translate what became of documents."""
    return [types.DocumentWrite(_STATUS[result.status], result.version, result.error) for result in results]


def filter_deletion(response: search_pb2.DeleteByFilterResponse) -> types.FilterDeletion:
    """Translate what a deletion by filter did."""
    return types.FilterDeletion(response.deleted, response.skipped, token_of(response.token), response.visible)


def batch_slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield slices that cover all documents in order, each within the documents and bytes of one request.

    Args:
        sizes: Bytes of each document. One that is too large by itself gets a slice of its own, for the server to
            refuse by name.
    """
    start = size = 0
    for row, document in enumerate(sizes):
        full = row - start == limits.DOCUMENTS_PER_REQUEST_MAX or size + document > _BATCH_BYTES_MAX
        if full and row > start:
            yield slice(start, row)
            start, size = row, 0
        size += document
    if len(sizes) > start:
        yield slice(start, len(sizes))


def _named(slices: Sequence[slice], write_id: str) -> Iterator[tuple[slice, str]]:
    for number, rows in enumerate(slices):
        yield rows, write_id if len(slices) == 1 else f"{write_id}/{number}"


def _sizes(ids: Sequence[str], vectors: Sequence[int], payloads: Sequence[str] | None) -> list[int]:
    """Return an upper bound of what each document adds to a request."""
    payload_sizes = [0] * len(ids) if payloads is None else [len(payload.encode()) for payload in payloads]
    return [
        len(id.encode()) + vector + payload + _DOCUMENT_OVERHEAD_BYTES
        for id, vector, payload in zip(ids, vectors, payload_sizes, strict=True)
    ]
