"""Collections: their records, and creating and deleting them so that a crash at any point leaves nothing behind."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import structlog
from redis.asyncio import Redis

from services.index.core.fields import FIELD_TYPES, FieldType
from services.index.store.connection import store_errors
from services.index.store.keys import CATALOG_REVISION, COLLECTIONS, UNFINISHED, partition_keys
from services.index.store.meta import new_partition_fields
from services.runtime.errors import (
    CollectionExists,
    CorruptRecord,
    CsrError,
    StoreUnavailable,
    UnknownCollection,
    WrongState,
)

log = structlog.get_logger()

RECORD_FORMAT: Final = 2
"""Format 1 had no declared fields."""
_CREATION_SECONDS_MAX: Final = 60.0
"""A creation that is older than this was abandoned by its process."""
_KEYS: Final = (COLLECTIONS, UNFINISHED, CATALOG_REVISION)
"""What csr_publish and csr_retire take."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One complete encoding of a collection by one model version.

    Attributes:
        generation: 1 and up, never reused within the collection.
        model_name: Registered model; for collections of kind codes as the client named it.
        model_version: Version in the registry.
        fingerprint: 32 lower-case hex digits.
        hidden_dim: Number of latents.
    """

    generation: int
    state: Literal["building", "active", "retained"]
    model_name: str
    model_version: int
    fingerprint: str
    hidden_dim: int


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """What the catalogue knows of a collection.

    Attributes:
        collection_id: 16 hex digits, random, never reused.
        kind: `dense` (documents arrive as embeddings or texts) or `codes`.
        versioning: `assigned` by the store in the order of arrival, or by the `client`.
        input_dim: Dimension of embeddings; 0 for kind codes.
        k_max: Active latents kept per document.
        partitions: Hash buckets of ids, fixed.
        generations: By generation ascending; exactly one is active.
        revision: Grows by one with every change of the record; writers name it, and a partition's term says which
            one they must know at least.
        fields: Types of the declared fields, by name; compare as equal, but do not hash.
    """

    name: str
    collection_id: str
    kind: Literal["dense", "codes"]
    versioning: Literal["assigned", "client"]
    input_dim: int
    k_max: int
    partitions: int
    generations: tuple[GenerationRecord, ...]
    state: Literal["open", "deleted"] = "open"
    revision: int = 1
    fields: Mapping[str, FieldType] = field(default_factory=dict, hash=False)

    @property
    def active(self) -> GenerationRecord:
        """The generation that answers searches."""
        return next(generation for generation in self.generations if generation.state == "active")

    def to_json(self) -> str:
        """Return the record as JSON with a format version."""
        return json.dumps({"format": RECORD_FORMAT, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "CollectionRecord":
        """Return the record behind its JSON.

        Raises:
            WrongState: a newer release of this system wrote the record.
            CorruptRecord: the text is no record.
        """
        try:
            fields = json.loads(text)
            layout = fields.pop("format")
            if layout > RECORD_FORMAT:
                raise WrongState(f"collection record format {layout}: this release reads up to {RECORD_FORMAT}")
            generations = tuple(GenerationRecord(**generation) for generation in fields.pop("generations"))
            if [generation.state for generation in generations].count("active") != 1:
                raise ValueError("exactly one generation is active")
            if not set(fields.get("fields", {}).values()) <= set(FIELD_TYPES):
                raise ValueError(f"types of fields are {', '.join(FIELD_TYPES)}")
            return cls(**fields, generations=generations)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptRecord(f"collection record: {error!r}") from None


def new_collection_id() -> str:
    """Return a random collection id, 16 hex digits."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class CatalogListing:
    """All of the catalogue.

    Attributes:
        records: By name ascending.
        unreadable: Collections that exist, but whose records cannot be read: name -> why.
    """

    records: list[CollectionRecord]
    unreadable: Mapping[str, str]


class Catalog:
    """The collections in one Redis; holds no state of its own."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, record: CollectionRecord) -> None:
        """Create the partitions of a collection, then publish its record.

        Raises:
            CollectionExists: the name is taken; of concurrent creations of one name exactly one succeeds.
            StoreUnavailable, StoreFull: Redis does not answer or refuses.
        """
        with store_errors(f"create collection {record.name!r}"):
            if await self._redis.hexists(COLLECTIONS, record.name):
                raise CollectionExists(f"collection {record.name!r} exists")
            since, _ = await self._redis.time()
            entry = _unfinished_entry(record, since)
            await self._redis.hset(UNFINISHED, record.collection_id, entry)
            async with self._redis.pipeline(transaction=False) as calls:
                for partition in range(record.partitions):
                    calls.hset(partition_keys(record.collection_id, partition).meta, mapping=new_partition_fields())
                await calls.execute()
            outcome = await self._redis.fcall(
                "csr_publish", len(_KEYS), *_KEYS, record.name, record.collection_id, record.to_json(), entry
            )
            if outcome == b"published":
                return
            await self._remove(record)
        if outcome == b"taken":
            raise CollectionExists(f"collection {record.name!r} exists")
        raise StoreUnavailable(f"creating collection {record.name!r} took too long and was given up")

    async def get(self, name: str) -> CollectionRecord:
        """Return the record of a collection.

        Raises:
            UnknownCollection: no collection has that name.
        """
        return CollectionRecord.from_json(await self._get_json(name))

    async def listing(self) -> CatalogListing:
        """Return all collections. A record that cannot be read hides no other one."""
        with store_errors("list collections"):
            texts = await self._redis.hgetall(COLLECTIONS)
        records: list[CollectionRecord] = []
        unreadable: dict[str, str] = {}
        for name, text in sorted(texts.items()):
            try:
                records.append(CollectionRecord.from_json(text))
            except CsrError as error:
                unreadable[name.decode(errors="replace")] = str(error)
        return CatalogListing(records, unreadable)

    async def list(self) -> list[CollectionRecord]:
        """Return all collections whose records can be read, by name ascending; the others are logged."""
        listing = await self.listing()
        for name, reason in listing.unreadable.items():
            log.warning("collection record unreadable", collection=name, reason=reason)
        return listing.records

    async def revision(self) -> int:
        """Return a number that is another one, and higher, after every change of the catalogue; 0 before the first.

        After Redis lost its latest writes it may be lower, but then it never stands for other contents than before.
        """
        with store_errors("read the revision of the catalogue"):
            return int(await self._redis.get(CATALOG_REVISION) or 0)

    async def delete(self, name: str) -> CollectionRecord:
        """Delete a collection and return its last record, in state `deleted`.

        The name is free at once. Every partition is closed, so that no write arrives any more, and then unlinked;
        if that is interrupted, resume_deletions finishes it.

        Raises:
            UnknownCollection: no collection has that name.
        """
        while True:  # until the record does not change between reading and retiring it
            text = await self._get_json(name)
            record = CollectionRecord.from_json(text)
            deleted = replace(record, state="deleted", revision=record.revision + 1)
            with store_errors(f"delete collection {name!r}"):
                entry = _unfinished_entry(deleted, None)
                if await self._redis.fcall("csr_retire", len(_KEYS), *_KEYS, name, record.collection_id, text, entry):
                    await self._remove(deleted)
                    return deleted

    async def resume_deletions(self) -> int:
        """Remove what interrupted deletions and abandoned creations left; return how many there were."""
        with store_errors("remove deleted collections"):
            entries = await self._redis.hvals(UNFINISHED)
            now, _ = await self._redis.time()
            removed = 0
            for entry in entries:
                try:
                    record, since = _parse_unfinished(entry)
                except CsrError as error:
                    log.warning("unfinished collection unreadable", reason=str(error))
                    continue
                if since is not None:
                    if now - since < _CREATION_SECONDS_MAX:
                        continue
                    deletion = _unfinished_entry(record, None)
                    if not await self._redis.fcall("csr_abandon", 1, UNFINISHED, record.collection_id, entry, deletion):
                        continue
                await self._remove(record)
                removed += 1
        return removed

    async def _get_json(self, name: str) -> bytes:
        with store_errors(f"read collection {name!r}"):
            text: bytes | None = await self._redis.hget(COLLECTIONS, name)
        if text is None:
            raise UnknownCollection(f"no collection {name!r}")
        return text

    async def _remove(self, record: CollectionRecord) -> None:
        """Close all partitions, remove their keys, then forget the collection; safe to repeat from any point."""
        partitions = [partition_keys(record.collection_id, partition) for partition in range(record.partitions)]
        async with self._redis.pipeline(transaction=False) as calls:
            for keys in partitions:
                calls.fcall("csr_close", 1, keys.meta)
            await calls.execute()
        async with self._redis.pipeline(transaction=False) as calls:
            for keys in partitions:
                calls.unlink(*keys.all())
            await calls.execute()
        await self._redis.hdel(UNFINISHED, record.collection_id)


def _unfinished_entry(record: CollectionRecord, creating_since: int | None) -> str:
    return json.dumps({"record": record.to_json(), "creating_since": creating_since})


def _parse_unfinished(entry: bytes) -> tuple[CollectionRecord, int | None]:
    """Return the collection, and the Redis time in seconds when its creation began; None for a deletion."""
    try:
        fields: dict[str, Any] = json.loads(entry)
        return CollectionRecord.from_json(fields["record"]), fields["creating_since"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecord(f"unfinished collection: {error!r}") from None
