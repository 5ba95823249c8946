"""Reads documents and heads of partitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_errors
from services.index.store.entry import DocumentBody, StoredRecord, decode_body
from services.index.store.keys import partition_keys, partition_of
from services.index.store.meta import FIELDS, PartitionMeta, parse_meta
from services.runtime.errors import CorruptRecord, WrongState

_REPAIRS_PER_READ: Final = 1_000


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
            WrongState: the collection was deleted meanwhile.
            StoreUnavailable: Redis does not answer.
        """
        documents, damaged = await self.get_intact(record, ids)
        if damaged:
            raise next(iter(damaged.values()))
        return documents

    async def get_intact(
        self, record: CollectionRecord, ids: Sequence[str]
    ) -> tuple[list[StoredDocument | None], dict[str, CorruptRecord]]:
        """Return the documents whose records are intact, as `get`, and by id what is wrong with the others.

        Raises:
            WrongState, StoreUnavailable: as `get`.
        """
        by_partition: dict[int, list[str]] = {}
        for id in ids:
            by_partition.setdefault(partition_of(id, record.partitions), []).append(id)
        with store_errors(f"read documents of {record.name!r}"):
            async with self._redis.pipeline(transaction=False) as reads:
                for partition, members in by_partition.items():
                    keys = partition_keys(record.collection_id, partition)
                    reads.hmget(keys.docs, members)
                    reads.hmget(keys.meta, FIELDS)  # after the documents: without it they are missing, not absent
                replies = await reads.execute()
        for values in replies[1::2]:
            _check_open(record, parse_meta(values))
        found: dict[str, StoredDocument] = {}
        damaged: dict[str, CorruptRecord] = {}
        for members, values in zip(by_partition.values(), replies[::2], strict=True):
            for id, raw in zip(members, values, strict=True):
                if raw is None:
                    continue
                try:
                    stored = StoredRecord.parse(id, raw)
                    if not stored.deleted:
                        found[id] = StoredDocument(id, stored.version, decode_body(stored.body))
                except CorruptRecord as error:
                    damaged[id] = error
        return [found.get(id) for id in ids], damaged

    async def heads(self, record: CollectionRecord) -> list[PartitionHead]:
        """Return the head of every partition, by partition ascending; one round trip.

        Raises:
            WrongState: the collection was deleted meanwhile.
            StoreUnavailable: Redis does not answer.
        """
        with store_errors(f"read heads of {record.name!r}"):
            async with self._redis.pipeline(transaction=False) as reads:
                for partition in range(record.partitions):
                    reads.hmget(partition_keys(record.collection_id, partition).meta, FIELDS)
                replies = await reads.execute()
        heads = []
        for partition, values in enumerate(replies):
            meta = _check_open(record, parse_meta(values))
            heads.append(PartitionHead(partition, meta.lsn, meta.documents, meta.digest.hex(), meta.term))
        return heads

    async def repairs(self, record: CollectionRecord, generation: int, limit: int) -> dict[str, int]:
        """Return documents that lack their code of a generation, id -> version; in no order.

        The list is kept with every write that knows the generation; documents stored before are not in it.

        Args:
            record: The collection.
            generation: One of its generations.
            limit: How many are enough.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        found: dict[str, int] = {}
        prefix = f"{generation}:"
        with store_errors(f"read repairs of {record.name!r}"):
            for partition in range(record.partitions):
                key = partition_keys(record.collection_id, partition).repairs
                async for field, version in self._redis.hscan_iter(key, match=f"{prefix}*", count=_REPAIRS_PER_READ):
                    if len(found) >= limit:
                        return found
                    found[field.decode().removeprefix(prefix)] = int(version)
        return found


def _check_open(record: CollectionRecord, meta: PartitionMeta | None) -> PartitionMeta:
    if meta is None or meta.state == "closed":
        raise WrongState(f"collection {record.name!r} ({record.collection_id}) was deleted")
    return meta
