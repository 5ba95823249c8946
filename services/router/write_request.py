"""What a write request asks for, checked against the collection, and how its outcome is told. Pure."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.index.core.code import quantise, to_ragged
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.entry import QuantisedCode
from services.index.store.keys import partition_of
from services.router.validation import (
    batch_of,
    check_ids,
    check_size,
    check_texts,
    checked_payloads,
    checked_versions,
    vector_count,
)
from services.runtime import limits
from services.runtime.codec import codes_from_proto, embeddings_from_proto
from services.runtime.errors import CsrError, InvalidRequest, StoreUnavailable

Vectors = NDArray[np.float16] | vector_pb2.TextBatch | list[QuantisedCode]
"""Embeddings [n, input_dim], texts, or codes as they are stored."""


@dataclass(frozen=True)
class CheckedUpsert:
    """An upsert that can be carried out; all lists are as long as ids."""

    ids: Sequence[str]
    versions: Sequence[int]
    """0 where the store assigns them."""
    payloads: Sequence[bytes]
    vectors: Vectors
    write_id: str


@dataclass(frozen=True)
class CheckedDelete:
    """A deletion that can be carried out."""

    ids: Sequence[str]
    versions: Sequence[int]
    write_id: str


def check_upsert(request: search_pb2.UpsertRequest, record: CollectionRecord) -> CheckedUpsert:
    """Check all of an upsert.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded, FingerprintMismatch, WrongKind: naming field and limit.
    """
    check_ids(request.ids)
    return CheckedUpsert(
        request.ids,
        checked_versions(request.versions, len(request.ids), record),
        checked_payloads(request.payloads_json, len(request.ids)),
        checked_vectors(request, record),
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


def checked_vectors(request: search_pb2.UpsertRequest, record: CollectionRecord) -> Vectors:
    """Return the vectors of a request: of the collection's kind, one per id, all valid.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded, FingerprintMismatch, WrongKind: naming field and limit.
    """
    field, vectors = batch_of(request, ["codes"] if record.kind == "codes" else ["embeddings", "texts"], record)
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
