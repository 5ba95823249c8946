import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from services.index.collection import CollectionIndex, LogRead
from services.index.core import writer
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.entry import (
    DocumentBody,
    LogEntry,
    QuantisedCode,
    combine_digests,
    document_digest,
    encode_body,
)
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail, TailBatch
from services.runtime.errors import CorruptRecord
from tests.services.index.test_generation import changes, found
from tests.services.index.world import FINGERPRINT, HIDDEN_DIM, K_MAX, random_code
from tests.support.deployment import eventually

FIRST = GenerationRecord(1, "active", "model", 1, FINGERPRINT, HIDDEN_DIM)
SECOND = GenerationRecord(2, "building", "model", 2, "cd" * 16, HIDDEN_DIM)
RECORD = CollectionRecord("c", "0" * 16, "codes", "assigned", 0, K_MAX, 4, (FIRST,))


@pytest.fixture
def executor() -> Iterator[Executor]:
    """The thread that applies changes."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def tail_at(partition: int, lsn: int) -> PartitionTail:
    """Return a position."""
    return PartitionTail(RECORD.collection_id, partition, lsn, lsn.to_bytes(20))


def load_of(partition: int, lsn: int, **documents: bytes) -> PartitionLoad:
    """Return a loaded partition whose documents all have version 1."""
    digest = combine_digests(document_digest(id, 1) for id in documents)
    versions = np.ones(len(documents), np.int64)
    return PartitionLoad(
        tail_at(partition, lsn), list(documents), versions, list(documents.values()), len(documents), digest
    )


def read_of(partition: int, lsn: int, id: str, body: bytes) -> LogRead:
    """Return a read that found one entry behind `lsn`, of version 2."""
    end = tail_at(partition, lsn + 1)
    entry = LogEntry(end.lsn, id, 2, False, bytes(8), body, bytes(8), end.chain)
    return tail_at(partition, lsn), TailBatch(end, [entry], end.lsn, None, False)


def body_of(*generations: int, code: QuantisedCode) -> bytes:
    """Return a body with the same code in these generations."""
    return encode_body(DocumentBody(codes=dict.fromkeys(generations, code)))


async def test_a_partition_is_ready_once_it_was_loaded(executor: Executor, rng: np.random.Generator) -> None:
    """A server would answer for a partition of which it has seen only the latest writes."""
    code = random_code(rng)
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0, 2}))
    index = collection.generations[1]
    assert index.published.positions == {}
    assert all(held.stale for held in collection.held.values())
    await collection.load([load_of(2, 7, a=body_of(1, code=code))])
    assert index.published.positions == {2: 7}
    assert found(index, index.published, code, 2) == {"a"}
    assert (collection.ready(0), collection.ready(2)) == (False, True)


async def test_reads_that_do_not_continue_a_partition_are_dropped(executor: Executor, rng: np.random.Generator) -> None:
    """A read that was under way while the partition was reloaded would take it back to an older position."""
    body = body_of(1, code=random_code(rng))
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0}))
    await collection.load([load_of(0, 7, a=body)])
    await collection.follow([read_of(0, 3, "old", body), read_of(1, 0, "elsewhere", body)])
    assert collection.generations[1].published.positions == {0: 7}
    await collection.follow([read_of(0, 7, "b", body)])
    assert collection.generations[1].published.positions == {0: 8}
    assert collection.held[0].state.documents == 2


async def test_a_load_that_comes_late_is_dropped(executor: Executor, rng: np.random.Generator) -> None:
    """A partition that was loaded twice would go back to the older of the two states, and answer from it."""
    body = body_of(1, code=random_code(rng))
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0}))
    await collection.load([load_of(0, 7, a=body)])
    await collection.follow([read_of(0, 7, "b", body)])
    await collection.load([load_of(0, 7, a=body)])
    assert collection.active.published.positions == {0: 8}
    assert collection.held[0].state.documents == 2


async def test_a_failed_change_is_never_seen(executor: Executor, rng: np.random.Generator) -> None:
    """After a document that one engine refuses, engines would differ from the positions that they claim."""
    code = random_code(rng)
    bad = QuantisedCode(np.array([HIDDEN_DIM], np.uint16), np.array([65_535], np.uint16))
    both = replace(RECORD, generations=(FIRST, SECOND))
    collection = CollectionIndex(both, executor)
    await collection.update(both, frozenset({0, 1}))
    for partition in (0, 1):
        await collection.load([load_of(partition, 1, **{f"a{partition}": body_of(1, 2, code=code)})])
    poisoned = encode_body(DocumentBody(codes={1: code, 2: bad}))
    with pytest.raises(CorruptRecord):
        await collection.follow([read_of(0, 1, "bad", poisoned)])
    index = collection.generations[1]
    assert index.published.positions == {1: 1}
    assert collection.held[0].stale
    assert found(index, index.published, code, 1) == {"a1"}
    await collection.load([load_of(0, 3, c=body_of(1, 2, code=code))])
    for generation in collection.generations.values():
        assert found(generation, generation.published, code, 0, 1) == {"a1", "c"}


async def test_a_new_generation_answers_after_a_load_and_the_old_one_meanwhile(
    executor: Executor, rng: np.random.Generator
) -> None:
    """While a promotion builds a generation, search would stop, or the new one would lack documents."""
    code = random_code(rng)
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0}))
    await collection.load([load_of(0, 1, a=body_of(1, code=code))])
    await collection.update(replace(RECORD, generations=(FIRST, SECOND)), frozenset({0}))
    old, new = collection.generations[1], collection.generations[2]
    assert found(old, old.published, code, 0) == {"a"}
    assert new.published.positions == {}
    await collection.load([load_of(0, 2, a=body_of(1, 2, code=code))])
    assert new.published.positions == old.published.positions == {0: 2}
    assert found(new, new.published, code, 0) == {"a"}
    await collection.update(replace(RECORD, generations=(SECOND,)), frozenset({0}))
    assert collection.generations.keys() == {2}


async def test_released_partitions_leave_nothing_behind(executor: Executor, rng: np.random.Generator) -> None:
    """Memory would grow with every move, and a partition that comes back would bring deleted documents with it."""
    code = random_code(rng)
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0, 1}))
    for partition in (0, 1):
        await collection.load([load_of(partition, 1, **{f"a{partition}": body_of(1, code=code)})])
    await collection.update(RECORD, frozenset({1}))
    index = collection.generations[1]
    assert index.published.positions == {1: 1}
    assert index.statistics().documents == 1
    await collection.update(RECORD, frozenset({0, 1}))
    assert collection.held[0].stale
    assert index.published.positions == {1: 1}


async def test_merged_segments_come_into_use(executor: Executor, rng: np.random.Generator) -> None:
    """After the last write of a load, searches would go through unmerged segments, and memory hold both, for hours."""
    code = random_code(rng)
    collection = CollectionIndex(RECORD, executor)
    await collection.update(RECORD, frozenset({0}))
    await collection.load([load_of(0, 1, a=body_of(1, code=code))])
    generation = collection.generations[1]
    with mock.patch.object(writer, "SEAL_ROWS", 5):
        for lsn in range(1, 9):
            many = changes({0: {f"{lsn}-{row}": DocumentBody(codes={1: code}) for row in range(5)}})
            await asyncio.to_thread(generation.write, many)
            generation.publish({0: lsn + 1}, frozenset({0}))
    before = generation.published

    def merged() -> bool:
        collection.use_merged()
        return len(generation.published.state.parts) < 5

    await asyncio.to_thread(eventually, merged)
    assert (generation.published.positions, generation.published.held) == (before.positions, before.held)
    assert found(generation, generation.published, code, 0) == found(generation, before, code, 0)
