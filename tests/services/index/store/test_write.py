from collections.abc import Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.index.store.catalog import CollectionRecord
from services.index.store.entry import encode_body
from services.index.store.keys import COLLECTIONS, UNFINISHED, PartitionKeys, partition_keys
from services.index.store.meta import FORMAT
from services.index.store.reader import DocumentReader
from services.index.store.writer import DocumentWrite, LogWriter, PartitionWrite, Write, WriteOutcome, WriteStatus
from services.runtime.errors import CorruptRecord, InvalidRequest, WrongState
from services.runtime.limits import VERSION_MAX, WRITE_BATCH_DOCUMENTS_MAX, WRITE_IDS_KEPT
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, update, upsert

APPLIED, UNCHANGED = WriteStatus.APPLIED, WriteStatus.UNCHANGED
STALE, CONFLICT = WriteStatus.STALE, WriteStatus.CONFLICT
MISSING, CHANGED = WriteStatus.MISSING, WriteStatus.CHANGED


@pytest.fixture
def writer(redis: Redis) -> LogWriter:
    """A writer with the default budget of the log."""
    return LogWriter(redis, LogSettings())


@pytest.fixture
def keys(record: CollectionRecord) -> PartitionKeys:
    """The keys of the only partition."""
    return partition_keys(record.collection_id, 0)


def _statuses(result: PartitionWrite) -> list[tuple[WriteStatus, int]]:
    return [(outcome.status, outcome.version) for outcome in result.outcomes]


@pytest.mark.parametrize(
    ("before", "write", "status", "version"),
    [
        (None, upsert("a", 5), APPLIED, 5),
        (None, delete("a", 5), APPLIED, 5),
        (upsert("a", 5), upsert("a", 6), APPLIED, 6),
        (upsert("a", 5), delete("a", 6), APPLIED, 6),
        (delete("a", 5), upsert("a", 6), APPLIED, 6),
        (upsert("a", 5), upsert("a", 4), STALE, 5),
        (upsert("a", 5), delete("a", 4), STALE, 5),
        (delete("a", 5), upsert("a", 4), STALE, 5),
        (upsert("a", 5), upsert("a", 5), UNCHANGED, 5),
        (delete("a", 5), delete("a", 5), UNCHANGED, 5),
        (upsert("a", 5), upsert("a", 5, value=1), CONFLICT, 5),
        (upsert("a", 5), delete("a", 5), CONFLICT, 5),
        (delete("a", 5), upsert("a", 5), CONFLICT, 5),
        (upsert("a", VERSION_MAX - 1), upsert("a", VERSION_MAX), APPLIED, VERSION_MAX),
        (upsert("a", VERSION_MAX), upsert("a", VERSION_MAX - 1), STALE, VERSION_MAX),
    ],
)
async def test_higher_versions_win(
    writer: LogWriter,
    redis: Redis,
    record: CollectionRecord,
    before: DocumentWrite | None,
    write: DocumentWrite,
    status: WriteStatus,
    version: int,
) -> None:
    """Otherwise late or repeated writes would undo newer ones, or deleted documents would come back."""
    if before is not None:
        await writer.write(record, 0, [before], "before")
    result = await writer.write(record, 0, [write], "write")
    assert _statuses(result) == [(status, version)]
    [stored] = await DocumentReader(redis).get(record, ["a"])
    winner = write if status is APPLIED else before
    assert winner is not None
    assert (stored is None) == winner.deleted
    if stored is not None:
        assert stored.version == winner.version


@pytest.mark.parametrize(
    ("before", "write", "status", "version"),
    [
        (upsert("a", 5), upsert("a", 6, if_version=5), APPLIED, 6),
        (upsert("a", 5), delete("a", 6, if_version=5), APPLIED, 6),
        (upsert("a", 5), upsert("a", 7, if_version=4), CHANGED, 5),
        (upsert("a", 5), upsert("a", 4, if_version=5), STALE, 5),
        (upsert("a", 5), upsert("a", 5, value=1, if_version=5), CONFLICT, 5),
        (delete("a", 5), upsert("a", 6, if_version=5), CHANGED, 5),
        (None, delete("a", 6, if_version=5), CHANGED, 0),
        (upsert("a", 5), update("a", 6), APPLIED, 6),
        (upsert("a", 5), update("a", 4), STALE, 5),
        (upsert("a", 5), update("a", 5), CONFLICT, 5),
        (update("a", 5), update("a", 5), MISSING, 0),
        (delete("a", 5), update("a", 6), MISSING, 5),
        (None, update("a", 6), MISSING, 0),
    ],
)
async def test_conditions_are_decided_before_versions(
    writer: LogWriter, record: CollectionRecord, before: Write | None, write: Write, status: WriteStatus, version: int
) -> None:
    """Otherwise a deletion by filter would delete documents that were replaced meanwhile, or an update create some."""
    lsn = 0 if before is None else (await writer.write(record, 0, [before], "before")).lsn
    result = await writer.write(record, 0, [write], "write")
    assert _statuses(result) == [(status, version)]
    assert result.lsn == lsn + (status is APPLIED), "what is refused leaves no trace"


async def test_a_payload_is_replaced_and_nothing_else(
    writer: LogWriter, redis: Redis, record: CollectionRecord
) -> None:
    """Otherwise changing a title would need the text encoded again, or lose the embedding or a code."""
    await writer.write(record, 0, [upsert("a", 1, 3, b'{"n":1}', generations=(1, 2)), upsert("empty", 1, 4, b"")], "1")
    long = b'{"n":"' + b"x" * 5_000 + b'"}'
    result = await writer.write(record, 0, [update("a", 2, long), update("empty", 2, b"{}"), update("a", 3, b"")], "2")
    assert _statuses(result) == [(APPLIED, 2), (APPLIED, 2), (APPLIED, 3)]
    for id, version, write in (("a", 3, upsert("a", 1, 3, b"", generations=(1, 2))), ("empty", 2, upsert("x", 1, 4))):
        [stored] = await DocumentReader(redis).get(record, [id])
        assert stored is not None
        assert stored.version == version
        assert write.body is not None
        assert encode_body(stored.body) == encode_body(write.body)


async def test_a_repeated_payload_update_changes_nothing(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise retries of an update would conflict with themselves."""
    await writer.write(record, 0, [upsert("a", 1)], "1")
    for number, (payload, status) in enumerate([(b"[]", APPLIED), (b"[]", UNCHANGED), (b"{}", CONFLICT)]):
        result = await writer.write(record, 0, [update("a", 2, payload)], f"u{number}")
        assert _statuses(result) == [(status, 2)]
    assert _statuses(await writer.write(record, 0, [upsert("a", 1)], "late")) == [(STALE, 2)]


async def test_a_damaged_record_is_not_covered_up(
    writer: LogWriter, redis: Redis, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise a payload update would give bit rot in an embedding a valid checksum."""
    await writer.write(record, 0, [upsert("a", 1), upsert("b", 1)], "1")
    raw = await redis.hget(keys.docs, "a")
    await redis.hset(keys.docs, "a", raw[:36] + bytes((raw[36] ^ 1,)) + raw[37:])
    with pytest.raises(CorruptRecord, match="checksum"):
        await writer.write(record, 0, [update("b", 2), update("a", 2)], "2")
    assert (await writer.write(record, 0, [upsert("a", 2)], "3")).lsn == 3, "the refused call stored nothing"


async def test_a_write_id_tells_conditions_and_kinds_apart(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a conditional write under a write id that was used would be reported as carried out."""
    await writer.write(record, 0, [upsert("a", 1)], "w")
    for other in (upsert("a", 1, if_version=1), upsert("a", 1, if_version=2), update("a", 1), delete("a", 1)):
        with pytest.raises(InvalidRequest, match="write id"):
            await writer.write(record, 0, [other], "w")


async def test_processes_of_the_release_before_are_told_to_upgrade(redis: Redis, keys: PartitionKeys) -> None:
    """Otherwise an old router in a rolling upgrade would have its arguments taken for something else."""
    old = (keys.meta, keys.docs, keys.log, keys.results)
    with pytest.raises(ResponseError, match="CSRFORMAT"):
        await redis.fcall("csr_write", len(old), *old, "w:0", b"12345678", 0, "", 1 << 20, "a", 1, b"\0" + bytes(16))
    with pytest.raises(ResponseError, match="CSRFORMAT"):
        await redis.fcall("csr_retire", 2, COLLECTIONS, UNFINISHED, "name", "id", "record", "entry")


async def test_assigned_versions_rise_even_above_the_clock(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a clock that steps back would make new writes stale."""
    first = await writer.write(record, 0, [upsert("a"), upsert("b")], "1")
    far_ahead = first.outcomes[1].version + 10**9
    await writer.write(record, 0, [upsert("a", far_ahead)], "2")
    later = await writer.write(record, 0, [delete("a"), upsert("b")], "3")
    versions = [outcome.version for outcome in (*first.outcomes, *later.outcomes)]
    assert versions == sorted(set(versions))
    assert versions[2:] == [far_ahead + 1, far_ahead + 2]


async def test_versions_end_where_redis_cannot_count_exactly(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise two versions beyond 2^53 would compare as equal."""
    await writer.write(record, 0, [upsert("a", VERSION_MAX)], "1")
    with pytest.raises(WrongState, match="versions"):
        await writer.write(record, 0, [upsert("b", 1), upsert("a", 0)], "2")
    assert (await writer.write(record, 0, [upsert("b", 1)], "3")).lsn == 2, "the refused call stored nothing"


async def test_the_same_id_twice_in_a_call_is_decided_in_order(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise counts and digests would drift from the documents."""
    writes = [upsert("a", 1), upsert("a", 3), upsert("a", 2), delete("a", 4), delete("a", 4)]
    result = await writer.write(record, 0, writes, "w")
    assert _statuses(result) == [(APPLIED, 1), (APPLIED, 3), (STALE, 3), (APPLIED, 4), (UNCHANGED, 4)]
    assert result.lsn == 3


async def test_a_repeated_write_id_returns_the_first_result(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a retry after a lost reply would store assigned versions twice and undo what came between."""
    first = await writer.write(record, 0, [upsert("a")], "w")
    await writer.write(record, 0, [upsert("a", value=9)], "other")
    assert await writer.write(record, 0, [upsert("a")], "w") == first
    assert (await writer.write(record, 0, [upsert("z")], "next")).lsn == 3


async def test_a_write_id_is_not_taken_for_another_write(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a client that reuses a write id would be told that documents are stored which are not."""
    await writer.write(record, 0, [upsert("a")], "w")
    with pytest.raises(InvalidRequest, match="write id"):
        await writer.write(record, 0, [upsert("a", value=1)], "w")


async def test_write_ids_are_kept_up_to_their_limit(
    writer: LogWriter, redis: Redis, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise results of writes would fill Redis, or be forgotten before clients stop retrying."""
    await writer.write(record, 0, [upsert("a", 1)], "oldest")
    second = await writer.write(record, 0, [upsert("a", 2)], "second")
    for number in range(WRITE_IDS_KEPT - 1):
        await writer.write(record, 0, [delete("b", 1)], f"w{number}")
    assert await redis.hlen(keys.results) == 2 * WRITE_IDS_KEPT
    assert await writer.write(record, 0, [upsert("a", 2)], "second") == second
    forgotten = await writer.write(record, 0, [upsert("a", 1)], "oldest")
    assert _statuses(forgotten) == [(STALE, 2)], "decided anew"


async def _drop_meta(redis: Redis, keys: PartitionKeys) -> None:
    await redis.delete(keys.meta)


async def _close(redis: Redis, keys: PartitionKeys) -> None:
    await redis.fcall("csr_close", 1, keys.meta)


async def _freeze(redis: Redis, keys: PartitionKeys) -> None:
    await redis.hset(keys.meta, "state", "frozen")


async def _newer_format(redis: Redis, keys: PartitionKeys) -> None:
    await redis.hset(keys.meta, "format", FORMAT + 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [(_drop_meta, "does not exist"), (_close, "closed"), (_freeze, "for now"), (_newer_format, "newer release")],
)
async def test_partitions_that_take_no_writes_stay_as_they_are(
    writer: LogWriter, redis: Redis, record: CollectionRecord, keys: PartitionKeys, change: Callable, text: str
) -> None:
    """Otherwise deleted collections would come back to life, or frozen ones would change."""
    await writer.write(record, 0, [upsert("a", 1)], "before")
    await change(redis, keys)
    kept = [await redis.dump(key) for key in keys.all()]
    with pytest.raises(WrongState, match=text):
        await writer.write(record, 0, [upsert("a", 2)], "after")
    assert [await redis.dump(key) for key in keys.all()] == kept


async def test_closing_does_not_bring_a_partition_back(redis: Redis, keys: PartitionKeys) -> None:
    """Otherwise two routers that finish one deletion would leave a key behind."""
    await redis.delete(keys.meta)
    assert await redis.fcall("csr_close", 1, keys.meta) == 0
    assert await redis.exists(keys.meta) == 0


async def test_a_log_behind_what_was_seen_is_refused(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise writes would go on top of a Redis that lost acknowledged ones."""
    seen = (await writer.write(record, 0, [upsert("a", 1)], "1")).lsn
    assert (await writer.write(record, 0, [upsert("a", 2)], "2", min_lsn=seen)).lsn == 2
    with pytest.raises(WrongState, match="acknowledged"):
        await writer.write(record, 0, [upsert("a", 3)], "3", min_lsn=3)


async def test_a_writer_of_an_older_term_is_refused(
    writer: LogWriter, redis: Redis, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise a router with an old collection record would write documents without the new generation's codes."""
    await redis.hset(keys.meta, "term", 2)
    for term in (None, 1):
        with pytest.raises(WrongState, match="term"):
            await writer.write(record, 0, [upsert("a", 1)], f"old-{term}", term=term)
    newer = replace(record, revision=3)
    assert (await writer.write(newer, 0, [upsert("a", 1)], "3")).lsn == 1, "partitions learn of a change one by one"
    assert (await writer.write(record, 0, [upsert("a", 2)], "2", term=2)).lsn == 2


async def test_large_writes_are_split_and_keep_their_order(
    writer: LogWriter, redis: Redis, record: CollectionRecord
) -> None:
    """Otherwise a large batch would hold Redis for long, or results would be given to the wrong documents."""
    many = [upsert(f"id-{number}", number + 1) for number in range(2 * WRITE_BATCH_DOCUMENTS_MAX + 7)]
    result = await writer.write(record, 0, many, "many")
    assert [outcome.version for outcome in result.outcomes] == [write.version for write in many]
    assert result.lsn == len(many)
    large = [upsert(f"big-{number}", 1, payload=b"x" * 60_000) for number in range(40)]
    assert (await writer.write(record, 0, large, "large")).lsn == len(many) + 40
    assert await redis.hlen(partition_keys(record.collection_id, 0).results) == 2 * (3 + 3)
    assert await writer.write(record, 0, many, "many") == result


async def test_nothing_changed_still_tells_the_position(writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a client whose write was stale could not wait for the version that won."""
    await writer.write(record, 0, [upsert("a", 2), upsert("b", 1)], "1")
    result = await writer.write(record, 0, [upsert("a", 1)], "2")
    assert result == PartitionWrite(2, [WriteOutcome(STALE, 2)])
