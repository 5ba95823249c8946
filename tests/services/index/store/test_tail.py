from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.keys import PartitionKeys, partition_keys
from services.index.store.load import load_partition
from services.index.store.tail import PartitionTail, ReloadReason, TailBatch, read_tails
from services.index.store.writer import LogWriter
from services.runtime.errors import CorruptRecord, WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert

SMALLEST_LOG = LogSettings(partition_bytes=1 << 20)


@pytest.fixture
def writer(redis: Redis) -> LogWriter:
    """A writer with the default budget of the log."""
    return LogWriter(redis, LogSettings())


@pytest.fixture
def keys(record: CollectionRecord) -> PartitionKeys:
    """The keys of the only partition."""
    return partition_keys(record.collection_id, 0)


@pytest.fixture
def start(record: CollectionRecord) -> PartitionTail:
    """A reader before the first entry."""
    return PartitionTail(record.collection_id, 0)


async def _read(redis: Redis, tail: PartitionTail, entries_max: int = 1_000) -> TailBatch:
    [batch] = await read_tails(redis, [tail], entries_max)
    return batch


async def _write_versions(writer: LogWriter, record: CollectionRecord, versions: range) -> None:
    for version in versions:
        await writer.write(record, 0, [upsert("a", version)], f"w{version}")


async def _rewrite_log(redis: Redis, keys: PartitionKeys, change: Callable[[int, dict[bytes, bytes]], None]) -> None:
    """Store the log again with every entry changed by `change(lsn, fields)`."""
    items = await redis.xrange(keys.log)
    await redis.delete(keys.log)
    for lsn, (stream_id, fields) in enumerate(items, start=1):
        change(lsn, fields)
        await redis.xadd(keys.log, fields, id=stream_id)


async def test_a_log_is_followed_in_batches_to_its_head(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail
) -> None:
    """Otherwise index servers would miss writes or read some twice."""
    await writer.write(record, 0, [upsert("a", 1), upsert("b", 1), delete("a", 2)], "1")
    first = await _read(redis, start, entries_max=2)
    assert [(entry.lsn, entry.id, entry.version, entry.deleted) for entry in first.entries] == [
        (1, "a", 1, False),
        (2, "b", 1, False),
    ]
    assert (first.head_lsn, first.reload, first.closed) == (3, None, False)
    second = await _read(redis, first.tail)
    assert [(entry.lsn, entry.id, entry.deleted) for entry in second.entries] == [(3, "a", True)]
    third = await _read(redis, second.tail)
    assert (third.entries, third.tail, third.reload) == ([], second.tail, None)


async def test_many_logs_are_read_at_once(
    redis: Redis, writer: LogWriter, new_record: Callable[..., CollectionRecord]
) -> None:
    """Otherwise a server with hundreds of partitions would fall behind, or mix them up."""
    record = new_record(partitions=5)
    await Catalog(redis).create(record)
    for partition in (1, 3):
        await writer.write(record, partition, [upsert(f"in-{partition}", 1)], "w")
    tails = [PartitionTail(record.collection_id, partition) for partition in range(5)]
    batches = await read_tails(redis, tails)
    assert [[entry.id for entry in batch.entries] for batch in batches] == [[], ["in-1"], [], ["in-3"], []]
    assert [batch.tail.lsn for batch in batches] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("per_call", [1, 15])
async def test_a_trimmed_log_is_a_gap(
    redis: Redis, record: CollectionRecord, start: PartitionTail, per_call: int
) -> None:
    """Otherwise a server that was away while the log was trimmed would go on with documents missing."""
    writer = LogWriter(redis, SMALLEST_LOG)
    for number in range(60 // per_call):
        batch = [upsert(f"{number}-{i}", 1, payload=b"x" * 60_000) for i in range(per_call)]
        await writer.write(record, 0, batch, f"w{number}")
    sizes = [len(fields[b"r"]) for _, fields in await redis.xrange(partition_keys(record.collection_id, 0).log)]
    assert 1 << 20 <= sum(sizes) < (2 << 20) + (per_call + 1) * 60_200, "the budget is kept, and not much more"
    batch = await _read(redis, start)
    assert (batch.entries, batch.reload, batch.head_lsn) == ([], ReloadReason.GAP, 60)
    load = await load_partition(redis, record.collection_id, 0, "test")
    assert (load.documents, load.tail.lsn) == (60, 60)
    assert (await _read(redis, load.tail)).reload is None


async def test_a_log_that_is_gone_is_a_gap(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail, keys: PartitionKeys
) -> None:
    """Otherwise a server would wait for ever for entries that cannot come."""
    await _write_versions(writer, record, range(1, 4))
    await redis.delete(keys.log)
    assert (await _read(redis, start)).reload is ReloadReason.GAP
    await _write_versions(writer, record, range(4, 5))
    assert (await _read(redis, start)).reload is ReloadReason.GAP


async def test_a_read_is_bounded_in_bytes(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail
) -> None:
    """Otherwise one read of logs with large payloads would take gigabytes of memory, and seconds."""
    for number in range(20):
        large = [upsert(f"{number}-{i}", 1, payload=b"x" * 60_000) for i in range(15)]
        await writer.write(record, 0, large, f"w{number}")
    tail, sizes = replace(start, entry_bytes=1 << 20), []
    while tail.lsn < 300:
        batch = await _read(redis, tail)
        sizes.append(sum(len(entry.body) for entry in batch.entries))
        tail = batch.tail
    assert max(sizes) <= 8 << 20
    assert max(sizes) > 6 << 20, "and does not waste round trips"
    many = [replace(start, entry_bytes=60_000)] * 40
    assert sum(len(entry.body) for batch in await read_tails(redis, many) for entry in batch.entries) < 24 << 20


async def test_a_missing_entry_is_a_gap(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail, keys: PartitionKeys
) -> None:
    """Otherwise one lost entry would make replicas differ for ever."""
    await _write_versions(writer, record, range(1, 6))
    await redis.xdel(keys.log, "3-0")
    batch = await _read(redis, start)
    assert ([entry.lsn for entry in batch.entries], batch.reload) == ([1, 2], ReloadReason.GAP)


async def test_a_damaged_entry_is_never_handed_on(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail, keys: PartitionKeys
) -> None:
    """Otherwise bit rot in the log would be searched."""

    def flip_third(lsn: int, fields: dict[bytes, bytes]) -> None:
        if lsn == 3:
            fields[b"r"] = fields[b"r"][:-1] + bytes((fields[b"r"][-1] ^ 1,))

    await _write_versions(writer, record, range(1, 6))
    await _rewrite_log(redis, keys, flip_third)
    batch = await _read(redis, start)
    assert ([entry.lsn for entry in batch.entries], batch.reload) == ([1, 2], ReloadReason.CORRUPT)
    assert (await load_partition(redis, record.collection_id, 0, "test")).tail.lsn == 5, "the records are intact"


async def test_entries_of_another_history_break_the_chain(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail, keys: PartitionKeys
) -> None:
    """Otherwise a log that was replaced by another one would be followed across the seam."""

    def other_chain(lsn: int, fields: dict[bytes, bytes]) -> None:
        if lsn == 3:
            fields[b"c"] = bytes(20)

    await _write_versions(writer, record, range(1, 6))
    await _rewrite_log(redis, keys, other_chain)
    batch = await _read(redis, start)
    assert ([entry.lsn for entry in batch.entries], batch.reload) == ([1, 2], ReloadReason.CHAIN)


async def _restore(redis: Redis, dumps: Mapping[str, bytes | None]) -> None:
    for key, dump in dumps.items():
        if dump is None:
            await redis.delete(key)
        else:
            await redis.restore(key, 0, dump, replace=True)


@pytest.mark.parametrize(("written_after", "reason"), [(0, "rewound"), (2, "rewound"), (3, "chain")])
async def test_a_rewound_log_is_noticed_also_when_it_was_rewritten(
    redis: Redis,
    writer: LogWriter,
    record: CollectionRecord,
    start: PartitionTail,
    keys: PartitionKeys,
    written_after: int,
    reason: str,
) -> None:
    """Otherwise servers would keep documents that Redis lost in a failover, and differ from it for ever."""
    await _write_versions(writer, record, range(1, 4))
    dumps = {key: await redis.dump(key) for key in keys.all()}
    await _write_versions(writer, record, range(4, 6))
    seen = (await _read(redis, start)).tail
    await _restore(redis, dumps)
    await _write_versions(writer, record, range(10, 10 + written_after))
    batch = await _read(redis, seen)
    assert (batch.entries, batch.reload) == ([], ReloadReason(reason))


@pytest.mark.parametrize("field", ["lsn", "format"])
async def test_an_unreadable_partition_does_not_stop_the_others(
    redis: Redis, writer: LogWriter, new_record: Callable[..., CollectionRecord], field: str
) -> None:
    """Otherwise one damaged partition would freeze every collection on the server."""
    record = new_record(partitions=2)
    await Catalog(redis).create(record)
    await writer.write(record, 1, [upsert("a", 1)], "w")
    await redis.hset(partition_keys(record.collection_id, 0).meta, field, "9e9" if field == "lsn" else "3")
    bad, good = await read_tails(redis, [PartitionTail(record.collection_id, p) for p in range(2)])
    assert (bad.reload, good.reload, good.tail.lsn) == (ReloadReason.CORRUPT, None, 1)
    with pytest.raises(CorruptRecord if field == "lsn" else WrongState):
        await load_partition(redis, record.collection_id, 0, "test")


async def test_a_deleted_collection_is_told(
    redis: Redis, writer: LogWriter, record: CollectionRecord, start: PartitionTail, keys: PartitionKeys
) -> None:
    """Otherwise servers would keep deleted collections in memory, or reload them in vain."""
    await writer.write(record, 0, [upsert("a", 1)], "w")
    await redis.fcall("csr_close", 1, keys.meta)
    assert (await _read(redis, start)).closed
    await Catalog(redis).delete(record.name)
    assert (await _read(redis, start)).closed
    with pytest.raises(WrongState, match="deleted"):
        await load_partition(redis, record.collection_id, 0, "test")
