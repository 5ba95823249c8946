"""A partition that the release before wrote, and functions that replace its own."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import connect
from services.index.store.entry import encode_body, encode_content
from services.index.store.functions import ensure_functions
from services.index.store.keys import PartitionKeys, partition_keys
from services.index.store.load import load_partition, load_small_partitions
from services.index.store.meta import FORMAT, new_partition_fields
from services.index.store.reader import DocumentReader
from services.index.store.tail import PartitionTail, ReloadReason, read_tails
from services.index.store.writer import DocumentWrite, LogWriter, WriteStatus
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, update, upsert
from tests.support.redis_server import RedisServer

LIBRARY_2 = (Path(__file__).parent / "library_2.lua").read_text()
"""The functions of the release before, which wrote partitions of format 1."""


async def _write_before(redis: Redis, keys: PartitionKeys, writes: list[DocumentWrite], write_id: str) -> None:
    """Write as the release before did."""
    old = (keys.meta, keys.docs, keys.log, keys.results)
    arguments: list[str | int | bytes] = []
    for write in writes:
        body = b"" if write.body is None else encode_body(write.body)
        arguments += [write.id, write.version, encode_content(write.deleted, write.input_digest, body)]
    await redis.fcall("csr_write", len(old), *old, f"{write_id}:0", b"12345678", 0, "", 64 << 20, *arguments)


@pytest.fixture
async def upgraded(own_server: RedisServer, new_record: Callable[..., CollectionRecord]) -> AsyncIterator[Redis]:
    """A client of a server with one collection of the release before, `old`, and the functions of this one."""
    client = connect(own_server.settings)
    await client.function_load(LIBRARY_2)
    yield client
    await client.aclose()


async def test_a_partition_of_format_1_is_loaded_and_written_on(
    upgraded: Redis, new_record: Callable[..., CollectionRecord]
) -> None:
    """Otherwise an upgrade would lose documents, or need all of them written again."""
    record = new_record()
    keys = partition_keys(record.collection_id, 0)
    await upgraded.hset(keys.meta, mapping={**new_partition_fields(), "format": 1})
    await _write_before(upgraded, keys, [upsert("a", 1), upsert("b", 1), upsert("c", 1), delete("c", 2)], "1")
    await ensure_functions(upgraded)
    start = PartitionTail(record.collection_id, 0)
    [batch] = await read_tails(upgraded, [start])
    assert (batch.entries, batch.reload, batch.head_lsn) == ([], ReloadReason.GAP, 4), "format 1 cannot be followed"
    load = await load_partition(upgraded, record.collection_id, 0, "test")
    assert (load.tail.lsn, sorted(load.ids)) == (4, ["a", "b"])
    assert (await load_small_partitions(upgraded, [(record.collection_id, 0)])).keys() == {(record.collection_id, 0)}

    writer = LogWriter(upgraded, LogSettings())
    assert await upgraded.hget(keys.meta, "format") == b"1"
    writes = [upsert("a", 2), delete("b", 2), upsert("c", 1), upsert("c", 3), update("a", 3)]
    result = await writer.write(record, 0, writes, "2")
    applied, stale = WriteStatus.APPLIED, WriteStatus.STALE
    assert [outcome.status for outcome in result.outcomes] == [applied, applied, stale, applied, applied]
    assert int(await upgraded.hget(keys.meta, "format")) == FORMAT

    [followed] = await read_tails(upgraded, [load.tail])
    assert followed.reload is None, "the log is followed across the seam"
    assert [(entry.id, entry.version, entry.previous) for entry in followed.entries] == [
        ("a", 2, 1),
        ("b", 2, 1),
        ("c", 3, 0),
        ("a", 3, 2),
    ]
    later = await load_partition(upgraded, record.collection_id, 0, "test")
    assert (later.tail, sorted(later.ids)) == (followed.tail, ["a", "c"])
    assert (await DocumentReader(upgraded).heads(record))[0].state_digest == later.digest.hex()
