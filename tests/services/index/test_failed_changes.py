"""Changes that fail half-way: after the loads that repair them, exactly what the store holds is found."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest

from services.index.collection import CollectionIndex, LogRead
from services.index.store.entry import LogEntry, QuantisedCode
from services.index.store.tail import TailBatch
from services.runtime.errors import CorruptRecord
from tests.services.index.test_collection import RECORD, body_of, load_of, read_of, tail_at
from tests.services.index.test_generation import found
from tests.services.index.world import K_MAX, random_code


@pytest.fixture
def executor() -> Iterator[Executor]:
    """The thread that applies changes."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def deletion_of(partition: int, lsn: int, id: str) -> LogRead:
    """Return a read that found the deletion of a document behind `lsn`, in version 2."""
    end = tail_at(partition, lsn + 1)
    entry = LogEntry(end.lsn, id, 2, True, bytes(8), b"", bytes(8), end.chain, 1)
    return tail_at(partition, lsn), TailBatch(end, [entry], end.lsn, None, False)


async def half_deleted(executor: Executor, code: QuantisedCode) -> CollectionIndex:
    """Return a collection that failed to follow a deletion in partition 0, for a bad document in partition 1."""
    too_long = QuantisedCode(np.arange(K_MAX + 1, dtype=np.uint16), np.full(K_MAX + 1, 9, np.uint16))
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0, 1}))
    body = body_of(1, code=code)
    await collection.load([load_of(0, 5, deleted=body, kept=body)])
    await collection.load([load_of(1, 5, other=body)])
    with pytest.raises(CorruptRecord):
        await collection.follow([deletion_of(0, 5, "deleted"), read_of(1, 5, "bad", body_of(1, code=too_long))])
    return collection


async def test_a_document_deleted_beside_an_unreadable_one_is_gone(
    executor: Executor, rng: np.random.Generator
) -> None:
    """One document that a server cannot read would keep documents of other partitions alive that were deleted."""
    code = random_code(rng)
    body = body_of(1, code=code)
    collection = await half_deleted(executor, code)
    await collection.load([load_of(0, 6, kept=body)])
    await collection.load([load_of(1, 6, other=body)])
    index = collection.generations[1]
    assert found(index, index.published, code, 0, 1) == {"kept", "other"}


async def test_a_partition_released_after_a_failed_change_leaves_nothing(
    executor: Executor, rng: np.random.Generator
) -> None:
    """A deleted document would be found in searches of the partitions that are left."""
    code = random_code(rng)
    collection = await half_deleted(executor, code)
    await collection.update(RECORD, frozenset({1}))
    await collection.load([load_of(1, 6, other=body_of(1, code=code))])
    index = collection.generations[1]
    assert found(index, index.published, code, 1) == {"other"}
    assert index.statistics().documents == 1
