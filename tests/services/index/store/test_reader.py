from collections.abc import Callable

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.keys import partition_keys, partition_of
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter
from services.runtime.errors import CorruptRecord, WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert


@pytest.fixture
async def spread(redis: Redis, new_record: Callable[..., CollectionRecord]) -> CollectionRecord:
    """A collection of four partitions with documents 0..19, of which 7 is deleted."""
    record = new_record(partitions=4)
    await Catalog(redis).create(record)
    writer = LogWriter(redis, LogSettings())
    for value in range(20):
        write = upsert(str(value), 5, value, payload=b'{"n":%d}' % value)
        await writer.write(record, partition_of(write.id, 4), [write], f"w{value}")
    await writer.write(record, partition_of("7", 4), [delete("7", 6)], "w")
    return record


async def test_documents_come_in_the_order_of_ids(redis: Redis, spread: CollectionRecord) -> None:
    """Otherwise payloads would be shown beside the wrong hits."""
    ids = ["3", "missing", "19", "7", "0", "3"]
    documents = await DocumentReader(redis).get(spread, ids)
    assert [document and document.id for document in documents] == ["3", None, "19", None, "0", "3"]
    found = documents[2]
    assert found is not None
    assert (found.version, found.body.payload) == (5, b'{"n":19}')
    assert found.body.embedding is not None
    np.testing.assert_array_equal(found.body.embedding, np.full(4, 19, np.float16))
    np.testing.assert_array_equal(found.body.codes[1].latents, [19, 64])
    np.testing.assert_array_equal(found.body.codes[1].weights, [60_000, 20_000])


async def test_a_damaged_document_is_not_returned(redis: Redis, spread: CollectionRecord) -> None:
    """Otherwise bit rot in Redis would reach users."""
    docs = partition_keys(spread.collection_id, partition_of("3", 4)).docs
    raw = await redis.hget(docs, "3")
    await redis.hset(docs, "3", raw[:-1] + bytes((raw[-1] ^ 1,)))
    with pytest.raises(CorruptRecord, match="'3'"):
        await DocumentReader(redis).get(spread, ["2", "3"])


async def test_heads_tell_position_and_count_of_every_partition(redis: Redis, spread: CollectionRecord) -> None:
    """Otherwise Count would be wrong and nobody could see how far index servers are behind."""
    heads = await DocumentReader(redis).heads(spread)
    assert [head.partition for head in heads] == [0, 1, 2, 3]
    assert sum(head.documents for head in heads) == 19
    assert sum(head.lsn for head in heads) == 21
    assert {head.term for head in heads} == {1}
    assert len({head.state_digest for head in heads}) == 4


async def test_heads_of_a_deleted_collection_are_refused(redis: Redis, spread: CollectionRecord) -> None:
    """Otherwise a deleted collection would look like an empty one."""
    await Catalog(redis).delete(spread.name)
    with pytest.raises(WrongState, match="deleted"):
        await DocumentReader(redis).heads(spread)
