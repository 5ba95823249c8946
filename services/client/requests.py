"""Arguments of the client become requests. Pure."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from csr.v1 import control_pb2, search_pb2, vector_pb2
from services.client.types import Codes, Kind, Payload, Token, Versioning
from services.runtime import limits
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import InvalidRequest

Floats = NDArray[np.floating[Any]]

_KIND: Final = {"dense": control_pb2.COLLECTION_KIND_DENSE, "codes": control_pb2.COLLECTION_KIND_CODES}
_VERSIONING: Final = {"assigned": control_pb2.VERSIONING_ASSIGNED, "client": control_pb2.VERSIONING_CLIENT}
_BATCH_BYTES_MAX: Final = limits.REQUEST_BYTES_MAX - (64 << 10)
"""Leaves room for what a request holds beside documents."""
_DOCUMENT_OVERHEAD_BYTES: Final = 32
"""At most, for tags, lengths and the version of one document."""

Request = TypeVar("Request", search_pb2.UpsertRequest, search_pb2.SearchRequest)


def create_collection_request(
    name: str,
    kind: Kind,
    model: str,
    model_version: int,
    fingerprint: str,
    hidden_dim: int,
    k_max: int,
    partitions: int,
    versioning: Versioning,
) -> control_pb2.CreateCollectionRequest:
    """Return the request; see control.proto for what 0 and empty mean.

    Raises:
        InvalidRequest: a kind or versioning that there is not, or a number below 0.
    """
    for field, value, known in (("kind", kind, _KIND), ("versioning", versioning, _VERSIONING)):
        if value not in known:
            raise InvalidRequest(f"{field}: {value!r}, one of {', '.join(known)} is needed")
    _check_numbers(model_version=model_version, hidden_dim=hidden_dim, k_max=k_max, partitions=partitions)
    return control_pb2.CreateCollectionRequest(
        name=name,
        kind=_KIND[kind],
        versioning=_VERSIONING[versioning],
        model=vector_pb2.ModelVersion(name=model, version=model_version, fingerprint=fingerprint),
        hidden_dim=hidden_dim,
        k_max=k_max,
        partitions=partitions,
    )


def upsert_requests(
    collection: str,
    ids: Sequence[str],
    embeddings: Floats | None,
    texts: Sequence[str] | None,
    codes: Codes | None,
    payloads: Sequence[Payload] | None,
    versions: Sequence[int] | None,
    write_id: str,
    allow_truncation: bool,
) -> Iterator[search_pb2.UpsertRequest]:
    """Yield requests that keep to the limits of one message, in order, built as they are taken.

    Their write ids follow from write_id and their position, so the same arguments make the same requests.

    Raises:
        InvalidRequest: no ids, lists of other lengths, not exactly one form of vectors, something that is no text,
            a version out of range, or a payload that is not JSON.
    """
    check_texts("ids", ids)
    _check_versions(versions)
    vectors = _one_form(embeddings, texts, codes)
    lengths = {"vectors": _count(vectors), "payloads": _length(payloads), "versions": _length(versions)}
    for name, length in lengths.items():
        if length not in (None, len(ids)):
            raise InvalidRequest(f"{name}: {length} for {len(ids)} ids, as many are needed")
    if len(ids) == 0:
        raise InvalidRequest("ids: empty, at least one is needed")
    encoded = None if payloads is None else [_json(position, payload) for position, payload in enumerate(payloads)]
    batches = list(batch_slices(_document_bytes(ids, vectors, encoded)))
    for number, rows in enumerate(batches):
        request = search_pb2.UpsertRequest(
            collection=collection,
            ids=ids[rows],
            payloads_json=None if encoded is None else encoded[rows],
            versions=None if versions is None else versions[rows],
            write_id=write_id if len(batches) == 1 else f"{write_id}/{number}",
            allow_truncation=allow_truncation,
        )
        yield _with_vectors(request, vectors, rows)


def delete_requests(
    collection: str, ids: Sequence[str], versions: Sequence[int] | None, write_id: str
) -> Iterator[search_pb2.DeleteRequest]:
    """Yield requests that keep to the limits of one message; see upsert_requests.

    Raises:
        InvalidRequest: no ids or something that is no text, or not one version per id.
    """
    check_texts("ids", ids)
    _check_versions(versions)
    if len(ids) == 0:
        raise InvalidRequest("ids: empty, at least one is needed")
    if versions is not None and len(versions) != len(ids):
        raise InvalidRequest(f"versions: {len(versions)} for {len(ids)} ids, as many are needed")
    batches = list(batch_slices([len(id.encode()) + _DOCUMENT_OVERHEAD_BYTES for id in ids]))
    for number, rows in enumerate(batches):
        yield search_pb2.DeleteRequest(
            collection=collection,
            ids=ids[rows],
            versions=None if versions is None else versions[rows],
            write_id=write_id if len(batches) == 1 else f"{write_id}/{number}",
        )


def search_request(
    collection: str,
    embeddings: Floats | None,
    texts: Sequence[str] | None,
    codes: Codes | None,
    top_n: int,
    k: int,
    k_query: int,
    k_docs: int,
    min_score: float | None,
    rerank: int,
    include_payloads: bool,
    token: Token | None,
    allow_truncation: bool,
) -> search_pb2.SearchRequest:
    """Return the request; see search.proto for what 0 means.

    Raises:
        InvalidRequest: not exactly one form of queries, or a number below 0.
    """
    _check_numbers(top_n=top_n, k=k, k_query=k_query, k_docs=k_docs, rerank=rerank)
    request = search_pb2.SearchRequest(
        collection=collection,
        top_n=top_n,
        k=k,
        k_query=k_query,
        k_docs=k_docs,
        min_score=min_score,
        rerank=rerank,
        include_payloads=include_payloads,
        token=None if token is None else _token_message(token),
        allow_truncation=allow_truncation,
    )
    return _with_vectors(request, _one_form(embeddings, texts, codes), slice(None))


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


def check_texts(field: str, texts: Sequence[str]) -> None:
    """Check ids or texts before they are sent: a str by itself is a sequence of str, too, but never meant as one.

    Raises:
        InvalidRequest: naming the first that is no text.
    """
    if isinstance(texts, str):
        raise InvalidRequest(f"{field}: one str, a list of them is needed")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(f"{field}[{position}]: {type(text).__name__}, str is needed")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{field}[{position}]: {text!a:.80} is not valid Unicode") from None


def _check_numbers(**numbers: int) -> None:
    for field, number in numbers.items():
        if not isinstance(number, int | np.integer) or not 0 <= number < 1 << 32:
            raise InvalidRequest(f"{field}: {number}, a whole number from 0 to 2^32 - 1 is needed")


def _check_versions(versions: Sequence[int] | None) -> None:
    for position, version in enumerate(() if versions is None else versions):
        if not isinstance(version, int | np.integer) or not 0 <= version < 1 << 64:
            raise InvalidRequest(f"versions[{position}]: {version}, 1..{limits.VERSION_MAX} is needed")


Vectors = Floats | Sequence[str] | Codes


def _one_form(embeddings: Floats | None, texts: Sequence[str] | None, codes: Codes | None) -> Vectors:
    given = {"embeddings": embeddings, "texts": texts, "codes": codes}
    vectors = [value for value in given.values() if value is not None]
    if len(vectors) != 1:
        raise InvalidRequest(f"{', '.join(given)}: exactly one of them is needed, not {len(vectors)}")
    if texts is not None:
        check_texts("texts", texts)
    if embeddings is not None and embeddings.ndim != 2:
        raise InvalidRequest(f"embeddings: shape {list(embeddings.shape)}, [n, d] is needed")
    if codes is not None and (codes.latents.ndim != 2 or codes.latents.shape != codes.weights.shape):
        shapes = f"{list(codes.latents.shape)} and {list(codes.weights.shape)}"
        raise InvalidRequest(f"codes: latents and weights have shapes {shapes}, [n, k] for both is needed")
    if codes is not None and codes.latents.dtype.kind not in "iu":
        raise InvalidRequest(f"codes: latents are {codes.latents.dtype}, integers are needed")
    return vectors[0]


def _with_vectors(request: Request, vectors: Vectors, rows: slice) -> Request:
    if isinstance(vectors, Codes):
        request.codes.CopyFrom(_code_batch(vectors, rows))
    elif isinstance(vectors, np.ndarray):
        request.embeddings.CopyFrom(embeddings_to_proto(vectors[rows]))
    else:
        request.texts.CopyFrom(vector_pb2.TextBatch(texts=vectors[rows]))
    return request


def _code_batch(codes: Codes, rows: slice) -> vector_pb2.CodeBatch:
    latents, weights = codes.latents[rows], codes.weights[rows]
    if latents.size and not 0 <= latents.min() <= latents.max() < limits.HIDDEN_DIM_MAX:
        raise InvalidRequest(f"codes: latents lie in 0..{limits.HIDDEN_DIM_MAX - 1}")
    # Everything that is not padding crosses the wire, so that the server judges wrong weights, not this function.
    listed = np.cumsum(weights[:, ::-1] != 0, axis=1)[:, ::-1] > 0
    lengths = listed.sum(axis=1)
    ragged = RaggedCodes(
        lengths.astype(np.uint16), latents[listed].astype(np.uint16), weights[listed].astype(np.float32)
    )
    return codes_to_proto(ragged, codes.fingerprint)


def _document_bytes(ids: Sequence[str], vectors: Vectors, payloads: Sequence[str] | None) -> list[int]:
    """Return an upper bound of what each document adds to a request."""
    if isinstance(vectors, Codes):
        sizes = [2 + 6 * vectors.latents.shape[1]] * len(ids)
    elif isinstance(vectors, np.ndarray):
        sizes = [4 * vectors.shape[1]] * len(ids)
    else:
        sizes = [len(text.encode()) for text in vectors]
    payload_sizes = [0] * len(ids) if payloads is None else [len(payload.encode()) for payload in payloads]
    return [
        len(id.encode()) + size + payload_size + _DOCUMENT_OVERHEAD_BYTES
        for id, size, payload_size in zip(ids, sizes, payload_sizes, strict=True)
    ]


def _count(vectors: Vectors) -> int:
    return len(vectors.latents) if isinstance(vectors, Codes) else len(vectors)


def _length(values: Sequence[Any] | None) -> int | None:
    return None if values is None else len(values)


def _json(position: int, payload: Payload) -> str:
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"payloads[{position}]: not JSON: {error}") from None


def _token_message(token: Token) -> search_pb2.Token:
    return search_pb2.Token(
        collection_id=token.collection_id,
        positions=[
            search_pb2.PartitionPosition(partition=partition, lsn=lsn)
            for partition, lsn in sorted(token.positions.items())
        ],
    )
