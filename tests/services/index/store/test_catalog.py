import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from services.index.store import catalog
from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord
from services.index.store.connection import connect
from services.index.store.keys import CATALOG_REVISION, COLLECTIONS, UNFINISHED
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter
from services.runtime.errors import CollectionExists, CorruptRecord, StoreUnavailable, UnknownCollection, WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import upsert
from tests.support.redis_server import RedisServer

NewRecord = Callable[..., CollectionRecord]


async def _keys_of(redis: Redis, record: CollectionRecord) -> list[bytes]:
    return [key async for key in redis.scan_iter(match=f"*{record.collection_id}*")]


async def test_a_collection_can_be_created_read_and_listed(redis: Redis, new_record: NewRecord) -> None:
    """Otherwise routers would disagree about what a collection is."""
    records = [new_record(partitions=3), new_record()]
    for record in records:
        await Catalog(redis).create(record)
        assert await Catalog(redis).get(record.name) == record
    names = [record.name for record in await Catalog(redis).list()]
    assert names == sorted(names)
    assert {record.name for record in records} <= set(names)
    assert len(await DocumentReader(redis).heads(records[0])) == 3
    assert await redis.hlen(UNFINISHED) == 0


async def test_every_change_of_the_catalogue_has_a_higher_revision(redis: Redis, new_record: NewRecord) -> None:
    """Otherwise routers and index servers that read only what changed would miss a collection, or its deletion."""
    catalog = Catalog(redis)
    record = new_record()
    revisions = [await catalog.revision()]
    await catalog.create(record)
    revisions.append(await catalog.revision())
    with pytest.raises(CollectionExists):
        await catalog.create(replace(new_record(), name=record.name))
    assert await catalog.revision() == revisions[-1], "nothing changed"
    await redis.set(CATALOG_REVISION, 9 * 10**15)  # a clock that was ahead
    await catalog.delete(record.name)
    revisions.append(await catalog.revision())
    assert revisions[0] < revisions[1] < 9 * 10**15 < revisions[2]
    await redis.delete(CATALOG_REVISION)
    await catalog.create(record)
    assert await catalog.revision() not in (0, *revisions), "a Redis that lost everything does not look unchanged"


async def test_an_unreadable_record_hides_no_other(redis: Redis, new_record: NewRecord) -> None:
    """Otherwise one damaged record would stop every router and index server from seeing any change."""
    record = new_record()
    await Catalog(redis).create(record)
    await redis.hset(COLLECTIONS, "damaged", "no record")
    await redis.hset(UNFINISHED, "damaged", "no entry")
    try:
        listing = await Catalog(redis).listing()
        assert record in listing.records
        assert listing.unreadable.keys() == {"damaged"}
        assert record in await Catalog(redis).list()
        await Catalog(redis).resume_deletions()
    finally:
        await redis.hdel(COLLECTIONS, "damaged")
        await redis.hdel(UNFINISHED, "damaged")


async def test_unknown_names_are_unknown(redis: Redis) -> None:
    """Otherwise a mistyped name would look like a failure of the service."""
    with pytest.raises(UnknownCollection, match="nowhere"):
        await Catalog(redis).get("nowhere")
    with pytest.raises(UnknownCollection, match="nowhere"):
        await Catalog(redis).delete("nowhere")


async def test_of_concurrent_creations_of_one_name_one_wins(redis: Redis, new_record: NewRecord) -> None:
    """Otherwise two clients would each write to a collection that the other cannot see."""
    records = [new_record("contested", partitions=2) for _ in range(8)]
    results = await asyncio.gather(*map(Catalog(redis).create, records), return_exceptions=True)
    winners = [record for record, result in zip(records, results, strict=True) if result is None]
    assert len(winners) == 1
    assert sum(isinstance(result, CollectionExists) for result in results) == 7
    assert await Catalog(redis).get("contested") == winners[0]
    left = {record.collection_id: len(await _keys_of(redis, record)) for record in records}
    assert left == {record.collection_id: 2 if record in winners else 0 for record in records}
    await Catalog(redis).delete("contested")


async def test_a_deleted_name_is_free_and_its_data_gone(redis: Redis, new_record: NewRecord) -> None:
    """Otherwise a recreated collection would show documents of the old one."""
    old, new = new_record("again"), new_record("again")
    writer = LogWriter(redis, LogSettings())
    await Catalog(redis).create(old)
    await writer.write(old, 0, [upsert("a", 1)], "w")
    deleted = await Catalog(redis).delete("again")
    assert (deleted.collection_id, deleted.state) == (old.collection_id, "deleted")
    with pytest.raises(UnknownCollection):
        await Catalog(redis).get("again")
    assert await _keys_of(redis, old) == []
    await Catalog(redis).create(new)
    assert await DocumentReader(redis).get(new, ["a"]) == [None]
    with pytest.raises(WrongState):
        await writer.write(old, 0, [upsert("b", 1)], "late")
    assert await _keys_of(redis, old) == [], "a late write does not bring the old one back"
    await Catalog(redis).delete("again")


async def _cut_off(redis: Redis, server: RedisServer, operation: Callable[[Catalog], Awaitable], after: float) -> bool:
    """Run an operation, cut it off after some seconds, and return whether it was cut."""
    client = connect(server.settings, client_name="cut-off")
    await client.ping()
    try:
        await asyncio.wait_for(operation(Catalog(client)), after)
    except TimeoutError:
        return True
    finally:
        await client.aclose()
        while any(other["name"] == "cut-off" for other in await redis.client_list()):
            await asyncio.sleep(0.001)  # Redis still works on what it was sent
    return False


async def _seconds_of(operation: Awaitable) -> float:
    begin = time.monotonic()
    await operation
    return time.monotonic() - begin


async def test_a_deletion_that_was_cut_off_is_finished_later(
    redis: Redis, redis_server: RedisServer, new_record: NewRecord
) -> None:
    """Otherwise a router that dies during a deletion would leave the data in Redis for ever."""
    whole = new_record(partitions=64)
    await Catalog(redis).create(whole)
    seconds = await _seconds_of(Catalog(redis).delete(whole.name))
    unfinished = 0
    for step in range(20):
        record = new_record(partitions=64)
        await Catalog(redis).create(record)
        await _cut_off(redis, redis_server, lambda c, name=record.name: c.delete(name), after=step / 20 * seconds)
        unfinished += await redis.hexists(UNFINISHED, record.collection_id)
        await Catalog(redis).resume_deletions()
        assert await redis.hlen(UNFINISHED) == 0
        published = await redis.hexists(COLLECTIONS, record.name)
        assert len(await _keys_of(redis, record)) == (64 if published else 0), "all or nothing"
    assert unfinished > 0, "some deletions were cut half-way"


async def test_a_creation_that_was_cut_off_is_removed_once_it_is_old(
    redis: Redis, redis_server: RedisServer, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise half-created collections would pile up, or a slow creation would be removed under its creator."""
    seconds = await _seconds_of(Catalog(redis).create(new_record(partitions=64)))
    unfinished = 0
    for step in range(20):
        record = new_record(partitions=64)
        await _cut_off(redis, redis_server, lambda c, r=record: c.create(r), after=step / 20 * seconds)
        left = await redis.hexists(UNFINISHED, record.collection_id)
        unfinished += left
        assert await Catalog(redis).resume_deletions() == 0, "it may still be running"
        assert await redis.hexists(UNFINISHED, record.collection_id) == left
        with monkeypatch.context() as patch:
            patch.setattr(catalog, "_CREATION_SECONDS_MAX", 0.0)
            await Catalog(redis).resume_deletions()
        published = await redis.hexists(COLLECTIONS, record.name)
        assert len(await _keys_of(redis, record)) == (64 if published else 0), "all or nothing"
    assert unfinished > 0, "some creations were cut half-way"


async def test_a_creation_that_is_swept_up_meanwhile_fails_whole(
    redis: Redis, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a creation that was slower than its grace would publish a collection without partitions."""
    monkeypatch.setattr(catalog, "_CREATION_SECONDS_MAX", 0.0)
    outcomes = []
    for _ in range(20):
        record = new_record(partitions=64)
        creation = asyncio.create_task(Catalog(redis).create(record))
        while not creation.done():
            await Catalog(redis).resume_deletions()
        outcomes.append(creation.exception())
        assert len(await _keys_of(redis, record)) == (64 if outcomes[-1] is None else 0)
    assert any(isinstance(outcome, StoreUnavailable) for outcome in outcomes)


async def test_the_active_generation_is_the_one_in_that_state(new_record: NewRecord) -> None:
    """Otherwise searches would be answered by a generation that is still being built."""
    first = new_record().active
    second = GenerationRecord(2, "building", "csr-adapter", 2, "1" * 32, 64)
    assert replace(new_record(), generations=(first, second)).active == first
    swapped = (replace(first, state="retained"), replace(second, state="active"))
    assert replace(new_record(), generations=swapped).active.generation == 2


def test_records_keep_declared_fields_and_may_have_none(new_record: NewRecord) -> None:
    """Otherwise filters would be refused after an upgrade, or collections of the release before unreadable."""
    record = replace(new_record(), fields={"colour": "keyword", "size": "float", "tags": "keywords"})
    assert CollectionRecord.from_json(record.to_json()) == record
    assert hash(CollectionRecord.from_json(record.to_json())) == hash(record)
    old = new_record().to_json().replace('"format":2', '"format":1').replace(',"fields":{}', "")
    assert '"fields"' not in old
    assert CollectionRecord.from_json(old).fields == {}


def test_records_of_a_newer_format_and_nonsense_are_refused(new_record: NewRecord) -> None:
    """Otherwise an old router would misread a collection, for instance search the wrong generation."""
    text = new_record().to_json()
    assert CollectionRecord.from_json(text).to_json() == text
    with pytest.raises(WrongState, match="format 3"):
        CollectionRecord.from_json(text.replace('"format":2', '"format":3'))
    colour = text.replace('"fields":{}', '"fields":{"colour":"rgb"}')
    inactive = text.replace('"state":"active"', '"state":"retained"')
    for nonsense in ("", "[]", "{}", text.replace('"k_max"', '"k"'), colour, inactive):
        with pytest.raises(CorruptRecord):
            CollectionRecord.from_json(nonsense)
