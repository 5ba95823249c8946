"""Reads documents and heads of partitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.entry import DocumentBody


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A live document."""

    id: str
    version: int
    body: DocumentBody


@dataclass(frozen=True, slots=True)
class PartitionHead:
    """Head of a partition's log.

    Attributes:
        lsn: Position of the last entry; 0 before the first.
        documents: Live documents at that position.
        state_digest: 40 hex digits; see entry.py.
        term: Of the partition's rules.
    """

    partition: int
    lsn: int
    documents: int
    state_digest: str
    term: int


class DocumentReader:
    """Reads from Redis; holds no state of its own."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def get(self, record: CollectionRecord, ids: Sequence[str]) -> list[StoredDocument | None]:
        """Return the documents in the order of ids, None for those that do not exist; one round trip.

        Raises:
            CorruptRecord: a record fails its checksum.
            StoreUnavailable: Redis does not answer.
        """
        raise NotImplementedError

    async def heads(self, record: CollectionRecord) -> list[PartitionHead]:
        """Return the head of every partition, by partition ascending; one round trip.

        Raises:
            WrongState: the collection was deleted meanwhile.
            StoreUnavailable: Redis does not answer.
        """
        raise NotImplementedError
