"""Writes documents: one atomic function call per partition and batch."""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_error, store_errors
from services.index.store.entry import DocumentBody, encode_body, encode_content, encode_payload
from services.index.store.keys import partition_keys
from services.runtime.limits import WRITE_BATCH_BYTES_MAX, WRITE_BATCH_DOCUMENTS_MAX
from services.runtime.settings import LogSettings

_LSN: Final = struct.Struct(">Q")
_OUTCOME: Final = struct.Struct(">cQ")
_UPSERT, _DELETE, _REPLACE_PAYLOAD, _CONDITIONAL = 0, 1, 2, 4
"""What a write's digest says of its kind."""


class WriteStatus(StrEnum):
    """What became of one document."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    STALE = "stale"
    CONFLICT = "conflict"
    MISSING = "missing"
    """Its payload was to be replaced, but there is no such document."""
    CHANGED = "changed"
    """Another version is live than the one that the write was meant for, or none."""


_STATUS: Final[Mapping[bytes, WriteStatus]] = {
    b"A": WriteStatus.APPLIED,
    b"U": WriteStatus.UNCHANGED,
    b"S": WriteStatus.STALE,
    b"C": WriteStatus.CONFLICT,
    b"M": WriteStatus.MISSING,
    b"V": WriteStatus.CHANGED,
}


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """One document to store or delete.

    Attributes:
        id: 1..128 bytes of UTF-8.
        version: 1..2^53-1, or 0 to have one assigned.
        deleted: Delete; the deletion is recorded even when the id is unknown.
        body: None exactly when deleted.
        input_digest: 8 bytes; see entry.input_digest.
        if_version: Change nothing unless exactly this version is live; 0: whatever is there.
    """

    id: str
    version: int
    deleted: bool
    body: DocumentBody | None
    input_digest: bytes
    if_version: int = 0


@dataclass(frozen=True, slots=True)
class PayloadWrite:
    """A new payload for a document that keeps its embedding and codes.

    Attributes:
        id: 1..128 bytes of UTF-8.
        version: Of the document with the new payload: 1..2^53-1, or 0 to have one assigned.
        payload: JSON object in UTF-8, or empty.
        input_digest: 8 bytes; see entry.input_digest.
    """

    id: str
    version: int
    payload: bytes
    input_digest: bytes


Write: TypeAlias = DocumentWrite | PayloadWrite


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """Status of one document, and the version that is stored now (a deletion has one, too); 0 when there is none."""

    status: WriteStatus
    version: int


@dataclass(frozen=True, slots=True)
class PartitionWrite:
    """Result of a write to one partition.

    Attributes:
        lsn: Position that covers everything the outcomes say.
        outcomes: One per document, in order.
    """

    lsn: int
    outcomes: list[WriteOutcome]


class LogWriter:
    """Writes to partitions; holds no state of its own."""

    def __init__(self, redis: Redis, settings: LogSettings) -> None:
        self._redis = redis
        self._settings = settings

    async def write(
        self,
        record: CollectionRecord,
        partition: int,
        writes: Sequence[Write],
        write_id: str,
        min_lsn: int = 0,
        term: int | None = None,
    ) -> PartitionWrite:
        """Write documents that all belong to one partition.

        Large writes are split into chunks, each atomic. Chunks depend only on the input, so a repeat with the same
        write id finds the first results, also when the first attempt stopped half-way.

        Args:
            record: The collection.
            partition: The partition of every id. The same id twice is decided in order.
            writes: One document or more, in order.
            write_id: Names the write, 1..64 bytes; a repeat returns the first result.
            min_lsn: Highest position seen of this partition; a log behind it lost acknowledged writes and is refused.
            term: What the writer knows: refused when the partition's is higher; None: the record's revision.

        Raises:
            StoreUnavailable: unknown whether it happened; repeat with the same write id.
            StoreFull: Redis lacks disk, or memory, which deletions do not need.
            WrongState: the partition is closed, frozen, of a higher term, or behind min_lsn.
            InvalidRequest: the write id was used for another write.
            CorruptRecord: the document whose payload was to be replaced is damaged.
        """
        keys = partition_keys(record.collection_id, partition).all()
        doing = f"write to {record.name!r}, partition {partition}"
        function = "csr_delete" if all(_kind(write) == _DELETE for write in writes) else "csr_write"
        with store_errors(doing):
            async with self._redis.pipeline(transaction=False) as calls:
                for number, chunk in enumerate(_chunks(writes)):
                    head = (
                        f"{write_id}:{number}",
                        _digest(chunk),
                        min_lsn,
                        record.revision if term is None else term,
                        self._settings.partition_bytes,
                        round(self._settings.tombstone_seconds * 1_000_000),
                        ",".join(str(generation.generation) for generation in record.generations),
                    )
                    calls.fcall(function, len(keys), *keys, *head, *_arguments(chunk))
                replies = await calls.execute(raise_on_error=False)
        results = [_parse_reply(doing, reply) for reply in replies]
        return PartitionWrite(
            lsn=max(result.lsn for result in results),
            outcomes=[outcome for result in results for outcome in result.outcomes],
        )


def _chunks(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Split by documents and by bytes of input; codes do not count, because they change with live generations."""
    chunk: list[Write] = []
    chunk_bytes = 0
    for write in writes:
        write_bytes = _input_bytes(write)
        if chunk and (len(chunk) == WRITE_BATCH_DOCUMENTS_MAX or chunk_bytes + write_bytes > WRITE_BATCH_BYTES_MAX):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(write)
        chunk_bytes += write_bytes
    yield chunk


def _input_bytes(write: Write) -> int:
    if isinstance(write, PayloadWrite):
        return len(write.id) + len(write.payload)
    if write.body is None:
        return len(write.id)
    embedding = write.body.embedding
    return len(write.id) + len(write.body.payload) + (0 if embedding is None else embedding.nbytes)


def _kind(write: Write) -> int:
    if isinstance(write, PayloadWrite):
        return _REPLACE_PAYLOAD
    return _DELETE if write.deleted else _UPSERT


def _if_version(write: Write) -> int:
    return write.if_version if isinstance(write, DocumentWrite) else 0


def _digest(chunk: Sequence[Write]) -> bytes:
    """Return 8 bytes that tell a repeat of a write from another write under the same id."""
    digest = hashlib.sha1(usedforsecurity=False)
    for write in chunk:
        id, if_version = write.id.encode(), _if_version(write)
        kind = _kind(write) | (_CONDITIONAL if if_version else 0)
        digest.update(struct.pack(">HQB", len(id), write.version, kind) + id + write.input_digest)
        if if_version:
            digest.update(struct.pack(">Q", if_version))
    return digest.digest()[:8]


def _arguments(chunk: Sequence[Write]) -> Iterator[str | int | bytes]:
    for write in chunk:
        yield write.id
        yield write.version
        yield _if_version(write)
        yield _content(write)


def _content(write: Write) -> bytes:
    if isinstance(write, PayloadWrite):
        return encode_payload(write.input_digest, write.payload)
    return encode_content(write.deleted, write.input_digest, b"" if write.body is None else encode_body(write.body))


def _parse_reply(doing: str, reply: bytes | RedisError) -> PartitionWrite:
    if isinstance(reply, RedisError):
        raise store_error(doing, reply)
    (lsn,) = _LSN.unpack_from(reply)
    outcomes = [WriteOutcome(_STATUS[letter], version) for letter, version in _OUTCOME.iter_unpack(reply[8:])]
    return PartitionWrite(lsn, outcomes)
