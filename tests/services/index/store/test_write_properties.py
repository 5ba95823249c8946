import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord
from services.index.store.entry import (
    EMPTY_STATE_DIGEST,
    GENESIS_CHAIN,
    LogEntry,
    StoredRecord,
    chain_after,
    combine_digests,
    decode_body,
    document_digest,
    encode_body,
)
from services.index.store.keys import partition_keys
from services.index.store.load import load_partition
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter, Write
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, update, upsert
from tests.services.index.store.model import Model

NewRecord = Callable[[], CollectionRecord]
IDS = st.sampled_from(["a", "b", "Ω", "id with spaces", "x" * 128])
VERSIONS = st.integers(1, 4) | st.sampled_from([2**32, 2**53 - 2])
ANY_VERSION = st.integers(0, 4) | st.just(2**40)
CONDITIONS = st.just(0) | st.integers(1, 4)
PAYLOADS = st.sampled_from([b"", b"{}", b'{"longer":true}'])
GENERATIONS = st.sampled_from([(1,), (1, 2), (1, 2), (2,), (1, 3)])
FOREVER, AT_ONCE = LogSettings(), LogSettings(tombstone_seconds=1e-6)
real_redis = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def writes(versions: st.SearchStrategy[int]) -> st.SearchStrategy[Write]:
    """Draw any write."""
    upserts = st.builds(upsert, IDS, versions, st.integers(0, 1), PAYLOADS, CONDITIONS, GENERATIONS)
    return upserts | upserts | st.builds(delete, IDS, versions, CONDITIONS) | st.builds(update, IDS, versions, PAYLOADS)


def batches(versions: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[Write]]]:
    """Draw calls, one after the other."""
    return st.lists(st.lists(writes(versions), min_size=1, max_size=8), min_size=1, max_size=8)


async def _new_collection(redis: Redis, new_record: NewRecord) -> CollectionRecord:
    """Create a collection with generations 1 and 2."""
    record = new_record()
    second = GenerationRecord(2, "building", "csr-adapter", 2, "1" * 32, 64)
    record = replace(record, generations=(*record.generations, second))
    await Catalog(redis).create(record)
    return record


async def _check_log(redis: Redis, record: CollectionRecord) -> tuple[list[LogEntry], bytes]:
    """Check the log by itself; return its entries and its last chain."""
    chain, entries = GENESIS_CHAIN, []
    for lsn, (stream_id, fields) in enumerate(await redis.xrange(partition_keys(record.collection_id, 0).log), start=1):
        entry = LogEntry.parse(stream_id, fields)
        chain = chain_after(chain, entry)
        assert (entry.lsn, entry.chain) == (lsn, chain)
        entries.append(entry)
    return entries, chain


def _followed(entries: list[LogEntry]) -> tuple[int, bytes]:
    """Return count and state digest as a reader knows them that remembers no versions."""
    documents, digest = 0, EMPTY_STATE_DIGEST
    for entry in entries:
        documents += (not entry.deleted) - (entry.previous != 0)
        gone = [document_digest(entry.id, entry.previous)] if entry.previous else []
        come = [] if entry.deleted else [document_digest(entry.id, entry.version)]
        digest = combine_digests([digest, *gone, *come])
    return documents, digest


async def _check_against_redis(redis: Redis, record: CollectionRecord, model: Model) -> None:
    """Compare all that lies in Redis with the model."""
    keys = partition_keys(record.collection_id, 0)
    entries, chain = await _check_log(redis, record)
    assert [(entry.id, entry.version, entry.previous, entry.deleted) for entry in entries] == model.log
    assert _followed(entries) == (len(model.live), model.digest)
    raw = {id.decode(): value for id, value in (await redis.hgetall(keys.docs)).items()}
    assert raw.keys() == model.stored.keys()
    last = {entry.id: entry.raw_record for entry in entries}
    for id, stored in model.stored.items():
        found = StoredRecord.parse(id, raw[id])
        assert (found.version, found.input_digest, found.deleted) == (
            stored.version,
            stored.digest,
            stored.body is None,
        )
        if stored.body is not None:
            assert encode_body(decode_body(found.body)) == found.body == encode_body(stored.body)
        assert raw[id] == last[id]
    tombstones = {id for id, stored in model.stored.items() if stored.body is None}
    assert {id.decode() for id in await redis.zrange(keys.tombstones, 0, -1)} == tombstones
    for generation in (1, 2, 3):
        wanted = {id: version for (number, id), version in model.repairs.items() if number == generation}
        assert await DocumentReader(redis).repairs(record, generation, limit=100) == wanted
    [head] = await DocumentReader(redis).heads(record)
    assert (head.lsn, head.documents, head.state_digest) == (len(entries), len(model.live), model.digest.hex())
    load = await load_partition(redis, record.collection_id, 0, "test")
    assert dict(zip(load.ids, load.versions.tolist(), strict=True)) == model.live
    assert (load.tail.chain, load.digest) == (chain, model.digest)


@real_redis
@given(calls=batches(ANY_VERSION), forgets=st.booleans())
async def test_any_history_follows_the_rules(
    redis: Redis, new_record: NewRecord, calls: list[list[Write]], forgets: bool
) -> None:
    """Otherwise documents would be lost, come back, or be reported as damaged by audits."""
    record = await _new_collection(redis, new_record)
    writer = LogWriter(redis, AT_ONCE if forgets else FOREVER)
    model = Model((1, 2), forgets)
    for number, call in enumerate(calls):
        result = await writer.write(record, 0, call, f"w{number}")
        outcomes, highest = result.outcomes, model.last_version
        assert model.write(call, [outcome.version for outcome in outcomes]) == outcomes
        for write, outcome in zip(call, outcomes, strict=True):
            if write.version == 0 and outcome.status == "applied":
                assert outcome.version > highest, "assigned versions rise"
                highest = outcome.version
        assert result.lsn == len(model.log)
    await _check_against_redis(redis, record, model)


@real_redis
@given(calls=batches(VERSIONS), repeats=st.integers(1, 3), seed=st.randoms(use_true_random=False))
async def test_writes_at_once_and_with_retries_are_as_if_one_after_the_other(
    redis: Redis, new_record: NewRecord, calls: list[list[Write]], repeats: int, seed: Random
) -> None:
    """Otherwise routers that write at once would leave another state than any order of their writes does."""
    record = await _new_collection(redis, new_record)
    writer = LogWriter(redis, FOREVER)
    sent = [(number, call) for number, call in enumerate(calls) for _ in range(repeats)]
    seed.shuffle(sent)
    results = await asyncio.gather(*(writer.write(record, 0, call, f"w{number}") for number, call in sent))
    by_call = {}
    for (number, _), result in zip(sent, results, strict=True):
        assert by_call.setdefault(number, result) == result, "repeats of a write id agree"
    order = await redis.hgetall(partition_keys(record.collection_id, 0).results)
    model = Model((1, 2))
    for slot in range(len(calls)):
        number = int(order[b"slot:%d" % slot].decode()[1:].partition(":")[0])
        assert model.write(calls[number], [0] * len(calls[number])) == by_call[number].outcomes
    await _check_against_redis(redis, record, model)


@real_redis
@given(calls=batches(VERSIONS), seed=st.randoms(use_true_random=False))
async def test_unconditional_writes_end_alike_in_any_order(
    redis: Redis, new_record: NewRecord, calls: list[list[Write]], seed: Random
) -> None:
    """Otherwise a duplicate storm, or a backfill that races with writes, would decide what is stored."""
    plain = [[upsert(write.id, write.version, value=write.version % 7) for write in call] for call in calls]
    gone = [[delete(write.id, write.version + 1) for write in call if write.version < 2**53 - 2] for call in calls]
    wanted: dict[str, int] = {}
    for write in (write for call in (*plain, *gone) for write in call):
        wanted[write.id] = max(write.version, wanted.get(write.id, 0))
    storm = [call for call in (*plain, *gone, *plain) if call]
    seed.shuffle(storm)
    record = await _new_collection(redis, new_record)
    writer = LogWriter(redis, FOREVER)
    for number, call in enumerate(storm):
        await writer.write(record, 0, call, f"w{number}")
    raw = await redis.hgetall(partition_keys(record.collection_id, 0).docs)
    found = {id.decode(): StoredRecord.parse(id.decode(), value).version for id, value in raw.items()}
    assert found == wanted
