import asyncio
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.entry import (
    GENESIS_CHAIN,
    LogEntry,
    StoredRecord,
    chain_after,
    checksum_of,
    combine_digests,
    decode_body,
    document_digest,
    encode_body,
    encode_content,
)
from services.index.store.keys import partition_keys
from services.index.store.reader import DocumentReader
from services.index.store.tail import load_partition
from services.index.store.writer import DocumentWrite, LogWriter, WriteStatus
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert

IDS = st.sampled_from(["a", "b", "Ω", "id with spaces", "x" * 128])
VERSIONS = st.integers(1, 4) | st.sampled_from([2**32, 2**53 - 2])
WRITES = st.builds(upsert, IDS, VERSIONS, st.integers(0, 1)) | st.builds(delete, IDS, VERSIONS)
BATCHES = st.lists(st.lists(WRITES, min_size=1, max_size=8), min_size=1, max_size=8)
real_redis = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def _new_collection(redis: Redis, new_record: Callable[[], CollectionRecord]) -> CollectionRecord:
    record = new_record()
    await Catalog(redis).create(record)
    return record


async def _check_against_redis(redis: Redis, record: CollectionRecord) -> dict[str, StoredRecord]:
    """Recompute everything that the function computed from what lies in Redis, and return the records."""
    keys = partition_keys(record.collection_id, 0)
    chain, replayed = GENESIS_CHAIN, {}
    for lsn, (stream_id, fields) in enumerate(await redis.xrange(keys.log), start=1):
        entry = LogEntry.parse(stream_id, fields)
        content = encode_content(entry.deleted, entry.input_digest, entry.body)
        chain = chain_after(chain, entry)
        assert (entry.lsn, entry.chain) == (lsn, chain)
        assert entry.checksum == checksum_of(entry.version, entry.id, content)
        replayed[entry.id] = entry.record
    raw = await redis.hgetall(keys.docs)
    assert {id.decode(): StoredRecord.parse(id.decode(), value) for id, value in raw.items()} == replayed
    live = {id: stored for id, stored in replayed.items() if not stored.deleted}
    [head] = await DocumentReader(redis).heads(record)
    assert head.state_digest == combine_digests(document_digest(i, r.version) for i, r in live.items()).hex()
    assert head.documents == len(live)
    assert (await load_partition(redis, record.collection_id, 0)).tail.chain == chain
    return replayed


@real_redis
@given(batches=BATCHES)
async def test_results_and_digests_follow_the_rules_for_any_history(
    redis: Redis, new_record: Callable[[], CollectionRecord], batches: list[list[DocumentWrite]]
) -> None:
    """Otherwise audits would report healthy partitions as damaged, or damaged ones as healthy."""
    record = await _new_collection(redis, new_record)
    writer = LogWriter(redis, LogSettings())
    stored: dict[str, DocumentWrite] = {}
    lsn = 0
    for number, batch in enumerate(batches):
        expected = []
        for write in batch:
            before = stored.get(write.id)
            if before is None or write.version > before.version:
                stored[write.id] = write
                lsn += 1
                expected.append((WriteStatus.APPLIED, write.version))
            elif write.version < before.version:
                expected.append((WriteStatus.STALE, before.version))
            else:
                same = write.input_digest == before.input_digest
                expected.append((WriteStatus.UNCHANGED if same else WriteStatus.CONFLICT, write.version))
        result = await writer.write(record, 0, batch, f"w{number}")
        assert [(outcome.status, outcome.version) for outcome in result.outcomes] == expected
        assert result.lsn == lsn
    records = await _check_against_redis(redis, record)
    assert records.keys() == stored.keys()
    for id, write in stored.items():
        assert (records[id].version, records[id].deleted) == (write.version, write.deleted)
        if write.body is not None:
            assert encode_body(decode_body(records[id].body)) == encode_body(write.body)


@real_redis
@given(batches=BATCHES, repeats=st.integers(1, 3), seed=st.randoms(use_true_random=False))
async def test_the_outcome_does_not_depend_on_the_order_of_arrival(
    redis: Redis, new_record: Callable[[], CollectionRecord], batches: list[list[DocumentWrite]], repeats: int, seed
) -> None:
    """Otherwise routers that write at once, with retries, would leave another state than one after the other."""
    record = await _new_collection(redis, new_record)
    writer = LogWriter(redis, LogSettings())
    calls = [(number, batch) for number, batch in enumerate(batches) for _ in range(repeats)]
    seed.shuffle(calls)
    results = await asyncio.gather(*(writer.write(record, 0, batch, f"w{number}") for number, batch in calls))
    for number, _ in calls:
        same = [result for result, (other, _) in zip(results, calls, strict=True) if other == number]
        assert all(result == same[0] for result in same), "repeats of a write id agree"
    records = await _check_against_redis(redis, record)
    highest: dict[str, int] = {}
    for batch in batches:
        for write in batch:
            highest[write.id] = max(write.version, highest.get(write.id, 0))
    assert {id: stored.version for id, stored in records.items()} == highest
