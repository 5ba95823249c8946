"""What a write request asks for, checked against the collection, and how its outcome is told. Pure."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.index.core.code import quantise, to_ragged
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.entry import QuantisedCode, input_digest
from services.index.store.keys import partition_of
from services.index.store.writer import DocumentWrite, Write
from services.router.validation import (
    Batch,
    check_form,
    check_ids,
    check_size,
    check_texts,
    checked_payload,
    checked_payloads,
    checked_versions,
    vector_count,
)
from services.runtime import limits
from services.runtime.codec import codes_from_proto, embeddings_from_proto
from services.runtime.errors import CsrError, InvalidRequest, StoreUnavailable

Vectors = NDArray[np.float16] | vector_pb2.TextBatch | list[QuantisedCode]
"""Embeddings [n, input_dim], texts, or codes as they are stored."""

_DELETION_DIGEST: Final = input_digest(b"deleted")


@dataclass(frozen=True)
class CheckedUpsert:
    """An upsert that can be carried out; all lists are as long as ids."""

    ids: Sequence[str]
    versions: Sequence[int]
    """0 where the store assigns them."""
    payloads: Sequence[bytes]
    vectors: Vectors

    def only(self, row: int) -> "CheckedUpsert":
        """Return one of the documents as an upsert of its own."""
        rows = slice(row, row + 1)
        vectors = self.vectors
        return CheckedUpsert(
            self.ids[rows],
            self.versions[rows],
            self.payloads[rows],
            vector_pb2.TextBatch(texts=vectors.texts[rows])
            if isinstance(vectors, vector_pb2.TextBatch)
            else vectors[rows],
        )


@dataclass(frozen=True)
class CheckedPayloadUpdate:
    """An update of payloads that can be carried out; all lists are as long as ids."""

    ids: Sequence[str]
    versions: Sequence[int]
    payloads: Sequence[bytes]
    """Empty where the payload is removed."""
    write_id: str


@dataclass(frozen=True)
class CheckedDelete:
    """A deletion that can be carried out."""

    ids: Sequence[str]
    versions: Sequence[int]
    write_id: str


def check_upsert(request: search_pb2.UpsertRequest | search_pb2.UpsertChunk, record: CollectionRecord) -> CheckedUpsert:
    """Check all documents of an upsert, or of one chunk of a stream.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded, FingerprintMismatch, WrongKind: naming field and limit.
    """
    check_ids(request.ids)
    return CheckedUpsert(
        request.ids,
        checked_versions(request.versions, len(request.ids), record),
        checked_payloads(request.payloads_json, len(request.ids), record),
        checked_vectors(request, record),
    )


def check_payload_update(request: search_pb2.UpdatePayloadsRequest, record: CollectionRecord) -> CheckedPayloadUpdate:
    """Check all of an update of payloads.

    Raises:
        InvalidRequest, LimitExceeded: naming field and limit.
    """
    check_ids(request.ids)
    if len(request.payloads_json) != len(request.ids):
        raise InvalidRequest(f"payloads_json: {len(request.payloads_json)}, one for each of {len(request.ids)} ids")
    return CheckedPayloadUpdate(
        request.ids,
        checked_versions(request.versions, len(request.ids), record),
        [
            checked_payload(f"payloads_json[{position}]", payload, record.fields) if payload else b""
            for position, payload in enumerate(request.payloads_json)
        ],
        checked_write_id(request.write_id),
    )


def check_delete(request: search_pb2.DeleteRequest, record: CollectionRecord) -> CheckedDelete:
    """Check all of a deletion.

    Raises:
        InvalidRequest, LimitExceeded: naming field and limit.
    """
    check_ids(request.ids)
    versions = checked_versions(request.versions, len(request.ids), record)
    return CheckedDelete(request.ids, versions, checked_write_id(request.write_id))


def checked_write_id(write_id: str) -> str:
    """Return the write id, made up when empty.

    Raises:
        LimitExceeded: it has more than 64 bytes.
    """
    if not write_id:
        return uuid.uuid4().hex
    check_size("write_id", write_id, limits.WRITE_ID_BYTES_MAX)
    return write_id


def checked_vectors(request: search_pb2.UpsertRequest | search_pb2.UpsertChunk, record: CollectionRecord) -> Vectors:
    """Return the vectors of a request: of the collection's kind, one per id, all valid.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded, FingerprintMismatch, WrongKind: naming field and limit.
    """
    allowed = ["codes"] if record.kind == "codes" else ["embeddings", "texts"]
    field = check_form(request.WhichOneof("vectors"), allowed, record)
    vectors: Batch = getattr(request, field)
    if vector_count(vectors) != len(request.ids):
        raise InvalidRequest(f"{field}: {vector_count(vectors)} vectors for {len(request.ids)} ids, as many are needed")
    if isinstance(vectors, vector_pb2.TextBatch):
        check_texts(vectors)
        return vectors
    if isinstance(vectors, vector_pb2.EmbeddingBatch):
        return embeddings_from_proto(vectors, "embeddings", record.input_dim).astype(np.float16)
    return stored_codes(vectors, "codes", record.active, record.k_max)


def stored_codes(
    batch: vector_pb2.CodeBatch, field: str, generation: GenerationRecord, k_max: int
) -> list[QuantisedCode]:
    """Return codes as they are stored: L2-normalised and quantised, weights that round to 0 dropped.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded, FingerprintMismatch: naming field and limit.
    """
    codes = codes_from_proto(batch, field, generation.hidden_dim, k_max, generation.fingerprint)
    latents, weights = codes.padded()
    quantised = quantise(latents, weights, hidden_dim=generation.hidden_dim, active_max=k_max)
    lengths, flat_latents, flat_weights = to_ragged(quantised)
    ends = np.cumsum(lengths)[:-1]
    return [
        QuantisedCode(latents, weights)
        for latents, weights in zip(np.split(flat_latents, ends), np.split(flat_weights, ends), strict=True)
    ]


def deletion(id: str, version: int, if_version: int = 0) -> DocumentWrite:
    """Return the write that deletes a document.

    Args:
        id: Of the document, which may be unknown.
        version: Of the deletion; 0 has one assigned.
        if_version: Only if exactly this version is stored; 0: whatever is.
    """
    return DocumentWrite(id, version, deleted=True, body=None, input_digest=_DELETION_DIGEST, if_version=if_version)


def is_deletion(write: Write) -> bool:
    """Return whether a write removes a document."""
    return isinstance(write, DocumentWrite) and write.deleted


def rows_by_partition(ids: Sequence[str], partitions: int) -> dict[int, list[int]]:
    """Return the positions of ids by partition, each list ascending."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, id in enumerate(ids):
        rows[partition_of(id, partitions)].append(row)
    return dict(rows)


def write_error(failures: Sequence[BaseException], done: int, write_id: str) -> BaseException:
    """Return the one error that tells most about a write some of whose partitions failed.

    Args:
        failures: What the partitions that failed raised, at least one.
        done: Partitions that were written.
        write_id: Name of the write.
    """
    bugs = [failure for failure in failures if not isinstance(failure, CsrError)]
    if bugs:
        return bugs[0]
    unknown = next((failure for failure in failures if isinstance(failure, StoreUnavailable)), None)
    if unknown is not None:
        return StoreUnavailable(f"{unknown}; the outcome is unknown: repeat the request with write_id {write_id!r}")
    first = failures[0]
    if done == 0:
        return first
    total = done + len(failures)
    return type(first)(f"{first}; {done} of {total} partitions were written: repeat it with write_id {write_id!r}")
