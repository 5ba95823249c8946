import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.index.store import load as loading
from services.index.store.catalog import Catalog, CollectionRecord, new_collection_id
from services.index.store.entry import (
    EMPTY_STATE_DIGEST,
    StoredRecord,
    checksum_of,
    combine_digests,
    document_digest,
    encode_content,
)
from services.index.store.keys import PartitionKeys, partition_keys
from services.index.store.load import PartitionLoad, audit_partition, load_partition, load_small_partitions
from services.index.store.pin import PIN_SECONDS, TrimPin
from services.index.store.tail import PartitionTail, ReloadReason, read_tails
from services.index.store.verified import verify_records
from services.index.store.writer import LogWriter
from services.runtime.errors import CorruptRecord, StoreUnavailable, WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, update, upsert

NewRecord = Callable[..., CollectionRecord]
SMALLEST_LOG = LogSettings(partition_bytes=1 << 20)


@pytest.fixture
def writer(redis: Redis) -> LogWriter:
    """A writer with the default budget of the log."""
    return LogWriter(redis, LogSettings())


@pytest.fixture
def keys(record: CollectionRecord) -> PartitionKeys:
    """The keys of the only partition."""
    return partition_keys(record.collection_id, 0)


async def _load(redis: Redis, record: CollectionRecord) -> PartitionLoad:
    return await load_partition(redis, record.collection_id, 0, "test")


async def _replayed(redis: Redis, load: PartitionLoad) -> dict[str, tuple[int, bytes]]:
    """Return the live documents, id -> (version, body), as the log alone says at the position of a load."""
    live: dict[str, tuple[int, bytes]] = {}
    tail = PartitionTail(load.tail.collection_id, load.tail.partition)
    while tail.lsn < load.tail.lsn:
        [batch] = await read_tails(redis, [tail])
        assert batch.reload is None
        for entry in batch.entries[: load.tail.lsn - tail.lsn]:
            live.pop(entry.id, None)
            if not entry.deleted:
                live[entry.id] = (entry.version, entry.body)
        tail = batch.tail
    return live


def _documents(load: PartitionLoad) -> dict[str, tuple[int, bytes]]:
    assert len(load.ids) == len(load.versions) == len(load.bodies) == load.documents
    return dict(zip(load.ids, zip(load.versions.tolist(), load.bodies, strict=True), strict=True))


async def test_a_load_brings_the_live_documents(redis: Redis, writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a reloaded server would serve deleted documents, or old versions."""
    await writer.write(record, 0, [upsert("a", 1), upsert("b", 1), upsert("Ω", 2**53 - 1)], "1")
    await writer.write(record, 0, [delete("a", 2), update("b", 3, b'{"new":1}')], "2")
    load = await _load(redis, record)
    assert (load.tail.lsn, load.documents, load.versions.dtype) == (5, 2, np.int64)
    assert {id: version for id, (version, _) in _documents(load).items()} == {"b": 3, "Ω": 2**53 - 1}
    assert _documents(load) == await _replayed(redis, load)
    assert load.digest == combine_digests([document_digest("b", 3), document_digest("Ω", 2**53 - 1)])


async def test_a_load_while_writes_go_on_is_exact(redis: Redis, writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a server that reloads under traffic would serve a state that never was."""
    stop = asyncio.Event()

    async def keep_writing(name: str) -> None:
        number = 0
        while not stop.is_set():
            batch = [upsert(f"{(number * 7 + i) % 400}", value=number) for i in range(20)]
            batch.append(delete(f"{number * 13 % 400}"))
            await writer.write(record, 0, batch, f"{name}-{number}")
            number += 1

    writers = [asyncio.create_task(keep_writing(name)) for name in ("x", "y")]
    loads = []
    for _ in range(12):
        loads.append(await _load(redis, record))
        [batch] = await read_tails(redis, [loads[-1].tail])
        assert batch.reload is None, "the log goes on where the load ends"
    stop.set()
    await asyncio.gather(*writers)
    assert len({load.tail.lsn for load in loads}) > 6, "writes went on between the loads"
    for load in (loads[0], loads[-1]):
        assert _documents(load) == await _replayed(redis, load)


@pytest.mark.parametrize("lose", ["record", "digest", "count"])
async def test_a_load_that_does_not_match_the_state_digest_is_refused(
    redis: Redis, writer: LogWriter, record: CollectionRecord, keys: PartitionKeys, lose: str
) -> None:
    """Otherwise documents that vanished from Redis would be missing from answers without a word."""
    await writer.write(record, 0, [upsert("a", 1), upsert("b", 1)], "1")
    if lose == "record":
        await redis.hdel(keys.docs, "a")
    elif lose == "digest":
        await redis.hset(keys.meta, "digest", "00" * 20)
    else:
        await redis.hset(keys.meta, "documents", 3)
    with pytest.raises(CorruptRecord, match="state digest"):
        await _load(redis, record)
    assert await load_small_partitions(redis, [(record.collection_id, 0)]) == {}
    audit = await audit_partition(redis, record.collection_id, 0)
    assert not audit.intact
    assert (audit.lsn, audit.unreadable) == (2, {})
    assert sorted(audit.ids) == (["b"] if lose == "record" else ["a", "b"])


async def test_a_load_names_the_damaged_record_and_an_audit_all_of_them(
    redis: Redis, writer: LogWriter, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise bit rot in a record would be searched, or nobody could tell which document to write again."""
    await writer.write(record, 0, [upsert(id, 1) for id in "abcd"], "1")
    assert (await audit_partition(redis, record.collection_id, 0)).intact
    for id in "bd":
        raw = await redis.hget(keys.docs, id)
        await redis.hset(keys.docs, id, raw[:30] + bytes((raw[30] ^ 64,)) + raw[31:])
    with pytest.raises(CorruptRecord, match=r"'[bd]', version 1: checksum"):
        await _load(redis, record)
    audit = await audit_partition(redis, record.collection_id, 0)
    assert not audit.intact
    assert audit.unreadable.keys() == {"b", "d"}
    assert (sorted(audit.ids), audit.versions.tolist(), audit.documents) == (["a", "c"], [1, 1], 2)
    assert audit.digest == combine_digests(document_digest(id, 1) for id in "ac")
    assert (audit.claimed_documents, audit.claimed_digest) == (
        4,
        combine_digests(document_digest(id, 1) for id in "abcd"),
    )
    assert await redis.exists(keys.pins) == 0, "nothing is left of loads and audits"


records = st.dictionaries(
    st.text(min_size=1, max_size=8).map(lambda id: id.encode(errors="replace")),
    st.tuples(st.integers(1, 2**53 - 1), st.booleans(), st.binary(max_size=40), st.integers(0, 400)),
    max_size=12,
)


@given(records)
def test_many_records_are_verified_like_single_ones(drawn: dict[bytes, tuple[int, bool, bytes, int]]) -> None:
    """Otherwise a load would take in what a read by id refuses, or refuse what it takes."""
    raws: dict[bytes, bytes] = {}
    for id, (version, deleted, body, flip) in drawn.items():
        content = encode_content(deleted, bytes(8), b"" if deleted else body)
        raw = bytearray(version.to_bytes(8) + checksum_of(version, id.decode(), content) + content)
        if flip < 8 * len(raw):
            raw[flip // 8] ^= 1 << flip % 8
        raws[id] = bytes(raw[: 4 * flip]) if 0 < flip < 3 else bytes(raw)
    found = verify_records(raws)
    live: dict[str, StoredRecord] = {}
    for id, raw in raws.items():
        name = id.decode()
        if name in found.unreadable:
            with pytest.raises(CorruptRecord) as refused:
                StoredRecord.parse(name, raw)
            assert found.unreadable[name] == str(refused.value)
        elif not (stored := StoredRecord.parse(name, raw)).deleted:
            live[name] = stored
    assert found.ids == list(live)
    assert found.versions.tolist() == [stored.version for stored in live.values()]
    assert found.bodies == [stored.body for stored in live.values()]
    assert found.digest == combine_digests(document_digest(id, stored.version) for id, stored in live.items())


async def test_a_record_whose_id_is_no_text_is_unreadable(
    redis: Redis, writer: LogWriter, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise one mangled id would end a load or an audit with an error that nobody handles."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    await redis.hset(keys.docs, b"\xff", b"x" * 40)
    with pytest.raises(CorruptRecord):
        await _load(redis, record)
    assert len((await audit_partition(redis, record.collection_id, 0)).unreadable) == 1


async def test_small_partitions_are_loaded_together_and_others_left_out(
    redis: Redis, writer: LogWriter, new_record: NewRecord
) -> None:
    """Otherwise a server with a thousand small collections would need minutes to start."""
    record = new_record(partitions=6)
    await Catalog(redis).create(record)
    await writer.write(record, 1, [upsert("a", 1), upsert("b", 1), delete("b", 2)], "1")
    await writer.write(record, 2, [delete("c", 1)], "2")
    await writer.write(record, 3, [upsert(f"{i}", 1, payload=b"x" * 2_000) for i in range(40)], "3")
    await redis.fcall("csr_close", 1, partition_keys(record.collection_id, 4).meta)
    await redis.hset(partition_keys(record.collection_id, 5).meta, "lsn", "9e9")
    asked = [(record.collection_id, partition) for partition in range(6)] + [(new_collection_id(), 0)]
    loads = await load_small_partitions(redis, asked)
    assert [partition for _, partition in loads] == [0, 1, 2], "large, closed, unreadable and gone ones are not there"
    for (collection_id, partition), load in loads.items():
        alone = await load_partition(redis, collection_id, partition, "test")
        assert (load.tail, load.ids, load.bodies, load.digest) == (alone.tail, alone.ids, alone.bodies, alone.digest)
    assert loads[record.collection_id, 2].digest == EMPTY_STATE_DIGEST
    assert loads[record.collection_id, 2].tail.lsn == 1


async def test_a_small_partition_that_changes_meanwhile_is_left_out(
    redis: Redis, writer: LogWriter, record: CollectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a server would hold documents of a later position than the one that it names."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    small_heads = loading._small_heads

    async def heads_and_a_write(*arguments):
        heads = await small_heads(*arguments)
        await writer.write(record, 0, [upsert("b")], "2")
        return heads

    monkeypatch.setattr(loading, "_small_heads", heads_and_a_write)
    assert await load_small_partitions(redis, [(record.collection_id, 0)]) == {}


async def _write_megabytes(writer: LogWriter, record: CollectionRecord, megabytes: int, name: str) -> None:
    for number in range(megabytes):
        await writer.write(record, 0, [upsert(f"{i}", payload=b"x" * 60_000) for i in range(18)], f"{name}-{number}")


async def test_a_pinned_log_is_not_trimmed_until_it_is_twice_as_large(redis: Redis, record: CollectionRecord) -> None:
    """Otherwise a server that loads under heavy writes would never catch up, or hold on to memory without bound."""
    writer = LogWriter(redis, SMALLEST_LOG)
    await _write_megabytes(writer, record, 2, "before")
    start = (await _load(redis, record)).tail
    async with TrimPin(redis, start, "slow"), TrimPin(redis, PartitionTail(record.collection_id, 0, 10**9), "ahead"):
        await _write_megabytes(writer, record, 1, "pinned")
        [batch] = await read_tails(redis, [start])
        assert batch.reload is None, "the entries behind the pin are there"
        assert len(batch.entries) == 18
        await _write_megabytes(writer, record, 4, "too-much")
        assert (await read_tails(redis, [start]))[0].reload is ReloadReason.GAP
    sizes = [len(fields[b"r"]) for _, fields in await redis.xrange(partition_keys(record.collection_id, 0).log)]
    assert sum(sizes) < 4.3 * (1 << 20)
    after = (await _load(redis, record)).tail
    await _write_megabytes(writer, record, 4, "released")
    assert (await read_tails(redis, [after]))[0].reload is ReloadReason.GAP, "nothing is pinned any more"


async def test_a_pin_of_a_reader_that_died_expires(redis: Redis, record: CollectionRecord, keys: PartitionKeys) -> None:
    """Otherwise servers that died while loading would keep logs at twice their size for ever."""
    writer = LogWriter(redis, SMALLEST_LOG)
    await _write_megabytes(writer, record, 1, "before")
    start = (await _load(redis, record)).tail
    await TrimPin(redis, start, "dead").__aenter__()
    lsn, expiry = map(int, (await redis.hget(keys.pins, "dead")).split())
    now, _ = await redis.time()
    assert (lsn, PIN_SECONDS - 30 < expiry / 1e6 - now <= PIN_SECONDS + 1) == (start.lsn, True)
    await redis.hset(keys.pins, "dead", f"{lsn} {now * 1_000_000}")
    await _write_megabytes(writer, record, 3, "expired")
    assert (await read_tails(redis, [start]))[0].reload is ReloadReason.GAP
    assert await redis.exists(keys.pins) == 0


async def test_a_long_load_keeps_its_pin(
    redis: Redis, writer: LogWriter, record: CollectionRecord, keys: PartitionKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a partition that takes longer than a minute to read could not be loaded under writes."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    start = (await _load(redis, record)).tail
    async with TrimPin(redis, start, "slow") as pin:
        first = await redis.hget(keys.pins, "slow")
        await pin.renew()
        assert await redis.hget(keys.pins, "slow") == first, "not at every step"
        monkeypatch.setattr("services.index.store.pin.PIN_SECONDS", 0)
        await pin.renew()
        later = await redis.hget(keys.pins, "slow")
        assert later != first
        assert later.split()[0] == first.split()[0] == b"1"
    assert await redis.exists(keys.pins) == 0


async def test_a_pin_brings_no_partition_back(redis: Redis, writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a server that loads a collection while it is deleted would leave keys behind for ever."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    start = (await _load(redis, record)).tail
    await Catalog(redis).delete(record.name)
    with pytest.raises(WrongState):
        await TrimPin(redis, start, "late").__aenter__()
    assert [key async for key in redis.scan_iter(match=f"*{record.collection_id}*")] == []


async def test_a_log_that_is_trimmed_while_it_is_needed_does_not_end_in_a_wrong_state(
    redis: Redis, writer: LogWriter, record: CollectionRecord, keys: PartitionKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a load that misses writes would be taken for a complete one."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    scan, times = loading._scan, []

    async def scan_and_trim(*arguments):
        found = await scan(*arguments)
        times.append(len(times))
        await writer.write(record, 0, [upsert(f"b{len(times)}", 1), upsert("c")], f"w{len(times)}")
        await redis.xtrim(keys.log, maxlen=1, approximate=False)
        return found

    monkeypatch.setattr(loading, "_scan", scan_and_trim)
    with pytest.raises(StoreUnavailable, match="gap"):
        await _load(redis, record)
    assert len(times) == 3
    monkeypatch.undo()
    assert (await _load(redis, record)).documents == 5
