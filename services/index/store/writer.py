"""Writes documents: one atomic function call per partition and batch."""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_error, store_errors
from services.index.store.entry import DocumentBody, encode_body, encode_content
from services.index.store.keys import partition_keys
from services.runtime.limits import WRITE_BATCH_BYTES_MAX, WRITE_BATCH_DOCUMENTS_MAX
from services.runtime.settings import LogSettings

_LSN: Final = struct.Struct(">Q")
_OUTCOME: Final = struct.Struct(">cQ")


class WriteStatus(StrEnum):
    """What became of one document."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    STALE = "stale"
    CONFLICT = "conflict"


_STATUS: Final[Mapping[bytes, WriteStatus]] = {
    b"A": WriteStatus.APPLIED,
    b"U": WriteStatus.UNCHANGED,
    b"S": WriteStatus.STALE,
    b"C": WriteStatus.CONFLICT,
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
    """

    id: str
    version: int
    deleted: bool
    body: DocumentBody | None
    input_digest: bytes


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """Status of one document, and the version that is stored now."""

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
        writes: Sequence[DocumentWrite],
        write_id: str,
        min_lsn: int = 0,
        term: int | None = None,
    ) -> PartitionWrite:
        """Write documents that all belong to one partition.

        Large writes are split into chunks, each atomic. Chunks depend only on the input, so a repeat with the same
        write id finds the first results, also when the first attempt stopped half-way.

        Args:
            record: The collection.
            partition: The partition of every id; ids are unique.
            writes: One document or more, in order.
            write_id: Names the write, 1..64 bytes; a repeat returns the first result.
            min_lsn: Highest position seen of this partition; a log behind it lost acknowledged writes and is refused.
            term: Refuse when the partition has another term; None: do not care.

        Raises:
            StoreUnavailable: unknown whether it happened; repeat with the same write id.
            StoreFull: Redis lacks disk, or memory, which deletions do not need.
            WrongState: the partition is closed, frozen, of another term, or behind min_lsn.
            InvalidRequest: the write id was used for another write.
        """
        keys = partition_keys(record.collection_id, partition).all()
        doing = f"write to {record.name!r}, partition {partition}"
        function = "csr_delete" if all(write.deleted for write in writes) else "csr_write"
        with store_errors(doing):
            async with self._redis.pipeline(transaction=False) as calls:
                for number, chunk in enumerate(_chunks(writes)):
                    head = (
                        f"{write_id}:{number}",
                        _digest(chunk),
                        min_lsn,
                        "" if term is None else term,
                        self._settings.partition_bytes,
                    )
                    calls.fcall(function, len(keys), *keys, *head, *_arguments(chunk))
                replies = await calls.execute(raise_on_error=False)
        results = [_parse_reply(doing, reply) for reply in replies]
        return PartitionWrite(
            lsn=max(result.lsn for result in results),
            outcomes=[outcome for result in results for outcome in result.outcomes],
        )


def _chunks(writes: Sequence[DocumentWrite]) -> Iterator[list[DocumentWrite]]:
    """Split by documents and by bytes of input; codes do not count, because they change with live generations."""
    chunk: list[DocumentWrite] = []
    chunk_bytes = 0
    for write in writes:
        write_bytes = _input_bytes(write)
        if chunk and (len(chunk) == WRITE_BATCH_DOCUMENTS_MAX or chunk_bytes + write_bytes > WRITE_BATCH_BYTES_MAX):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(write)
        chunk_bytes += write_bytes
    yield chunk


def _input_bytes(write: DocumentWrite) -> int:
    if write.body is None:
        return len(write.id)
    embedding = write.body.embedding
    return len(write.id) + len(write.body.payload) + (0 if embedding is None else embedding.nbytes)


def _digest(chunk: Sequence[DocumentWrite]) -> bytes:
    """Return 8 bytes that tell a repeat of a write from another write under the same id."""
    digest = hashlib.sha1(usedforsecurity=False)
    for write in chunk:
        id = write.id.encode()
        digest.update(struct.pack(">HQ?", len(id), write.version, write.deleted) + id + write.input_digest)
    return digest.digest()[:8]


def _arguments(chunk: Sequence[DocumentWrite]) -> Iterator[str | int | bytes]:
    for write in chunk:
        yield write.id
        yield write.version
        yield encode_content(write.deleted, write.input_digest, b"" if write.body is None else encode_body(write.body))


def _parse_reply(doing: str, reply: bytes | RedisError) -> PartitionWrite:
    if isinstance(reply, RedisError):
        raise store_error(doing, reply)
    (lsn,) = _LSN.unpack_from(reply)
    outcomes = [WriteOutcome(_STATUS[letter], version) for letter, version in _OUTCOME.iter_unpack(reply[8:])]
    return PartitionWrite(lsn, outcomes)
