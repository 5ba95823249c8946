"""One chunk of a stream: what is wrong with a document concerns that document only. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from csr.v1 import search_pb2, vector_pb2
from services.index.store.catalog import CollectionRecord
from services.router.validation import vector_count
from services.router.write_request import CheckedUpsert, check_upsert
from services.runtime import limits
from services.runtime.errors import CsrError, InvalidRequest, InvalidVector, LimitExceeded

REFUSALS: Final = (InvalidRequest, InvalidVector, LimitExceeded)
"""Errors of a document; all others concern the whole stream."""


@dataclass(frozen=True)
class CheckedChunk:
    """The documents of a chunk, apart by whether they can be stored.

    Attributes:
        rows: Positions in the chunk of the documents that can, ascending.
        upsert: These documents; None when there are none.
        refused: What is wrong with the others, by position.
    """

    rows: Sequence[int]
    upsert: CheckedUpsert | None
    refused: Mapping[int, str]


def check_chunk(chunk: search_pb2.UpsertChunk, record: CollectionRecord) -> CheckedChunk:
    """Check a chunk as a whole, and document by document only when that fails.

    Raises:
        InvalidRequest, InvalidVector, LimitExceeded: the chunk cannot be told apart into documents.
        FingerprintMismatch, WrongKind: vectors that the collection does not take.
    """
    try:
        return CheckedChunk(range(len(chunk.ids)), check_upsert(chunk, record), {})
    except REFUSALS:
        if not _consistent(chunk):
            raise
    seen: set[str] = set()
    refused: dict[int, str] = {}
    for row, id in enumerate(chunk.ids):
        try:
            check_upsert(rows_of(chunk, [row]), record)
            if id in seen:
                raise InvalidRequest(f"ids[0]: {id!r} was listed before, ids are unique within a chunk")
            seen.add(id)
        except REFUSALS as error:
            refused[row] = of_row(error, row)
    rows = [row for row in range(len(chunk.ids)) if row not in refused]
    return CheckedChunk(rows, check_upsert(rows_of(chunk, rows), record) if rows else None, refused)


def rows_of(chunk: search_pb2.UpsertChunk, rows: Sequence[int]) -> search_pb2.UpsertChunk:
    """Return some documents of a chunk as a chunk of their own."""
    part = search_pb2.UpsertChunk(
        sequence=chunk.sequence,
        ids=[chunk.ids[row] for row in rows],
        payloads_json=[chunk.payloads_json[row] for row in rows if chunk.payloads_json],
        versions=[chunk.versions[row] for row in rows if chunk.versions],
    )
    match chunk.WhichOneof("vectors"):
        case "texts":
            part.texts.texts.extend(chunk.texts.texts[row] for row in rows)
        case "embeddings":
            size = chunk.embeddings.dim * 4
            values = b"".join(chunk.embeddings.values[row * size : (row + 1) * size] for row in rows)
            part.embeddings.MergeFrom(
                vector_pb2.EmbeddingBatch(count=len(rows), dim=chunk.embeddings.dim, values=values)
            )
        case "codes":
            part.codes.MergeFrom(_codes_of(chunk.codes, rows))
    return part


def of_row(error: CsrError, row: int) -> str:
    """Return the text of an error of a document that was checked alone, with its position in the chunk."""
    return re.sub(r"^(\w+)\[0\]", rf"\1[{row}]", str(error))


def _codes_of(codes: vector_pb2.CodeBatch, rows: Sequence[int]) -> vector_pb2.CodeBatch:
    ends = np.cumsum(np.frombuffer(codes.lengths, "<u2"), dtype=np.int64).tolist()
    spans = [(ends[row - 1] if row else 0, ends[row]) for row in rows]
    return vector_pb2.CodeBatch(
        count=len(rows),
        lengths=b"".join(codes.lengths[2 * row : 2 * row + 2] for row in rows),
        latents=b"".join(codes.latents[2 * begin : 2 * end] for begin, end in spans),
        weights=b"".join(codes.weights[4 * begin : 4 * end] for begin, end in spans),
        fingerprint=codes.fingerprint,
    )


def _consistent(chunk: search_pb2.UpsertChunk) -> bool:
    """Return whether every document has a part of its own of everything that the chunk holds."""
    count = len(chunk.ids)
    field = chunk.WhichOneof("vectors")
    if not 1 <= count <= limits.DOCUMENTS_PER_REQUEST_MAX or field is None:
        return False
    if vector_count(getattr(chunk, field)) != count:
        return False
    if len(chunk.payloads_json) not in (0, count) or len(chunk.versions) not in (0, count):
        return False
    if field == "embeddings":
        return len(chunk.embeddings.values) == count * chunk.embeddings.dim * 4
    if field == "codes":
        codes = chunk.codes
        if len(codes.lengths) != 2 * count:
            return False
        total = int(np.frombuffer(codes.lengths, "<u2").sum(dtype=np.int64))
        return len(codes.latents) == 2 * total and len(codes.weights) == 4 * total
    return True
