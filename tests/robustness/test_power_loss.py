"""The machine of the store loses power again and again: what was never flushed is gone, what was confirmed is not."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import connect
from services.index.store.entry import DocumentBody, input_digest
from services.index.store.keys import partition_of
from services.index.store.reader import DocumentReader
from services.index.store.writer import DocumentWrite, LogWriter
from services.runtime.errors import StoreUnavailable
from services.runtime.settings import LogSettings
from tests.robustness.power_loss import FragileRedis
from tests.services.index.world import World
from tests.support.measured import Measured

pytestmark = pytest.mark.robustness

WRITERS = 4
BATCH = 100


@dataclass
class Journal:
    """What the writers were told, by document: version that was acknowledged, and version of a write without answer."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    writes: int = 0


async def write_until_power_is_lost(redis: FragileRedis, record: CollectionRecord, writer: int, told: Journal) -> None:
    """Write batches of documents of one partition, one after another, until the store does not answer."""
    own = (f"{writer}-{number}" for number in itertools.count())
    ids = list(itertools.islice((id for id in own if partition_of(id, record.partitions) == writer), 3_000))
    async with connect(redis.settings) as store:
        log = LogWriter(store, LogSettings())
        for turn in itertools.count():
            first = turn * BATCH % len(ids)
            versions = {
                id: max(told.acknowledged.get(id, 0), told.unknown.get(id, 0)) + 1 for id in ids[first : first + BATCH]
            }
            told.unknown |= versions
            payload = b'{"writer": %d, "turn": %d}' % (writer, turn)
            body, digest = DocumentBody(payload=payload), input_digest(payload)
            writes = [DocumentWrite(id, version, False, body, digest) for id, version in versions.items()]
            try:
                await log.write(record, writer, writes, f"{writer}-{told.writes}")
            except StoreUnavailable:
                return
            told.writes += BATCH
            told.acknowledged |= versions
            for id in versions:
                del told.unknown[id]


async def write_then_lose_power(
    redis: FragileRedis, record: CollectionRecord, told: Journal, seconds: float, rewrite: bool
) -> None:
    """Write for some time; with `rewrite`, while Redis begins a new append-only file."""
    writers = [asyncio.create_task(write_until_power_is_lost(redis, record, writer, told)) for writer in range(WRITERS)]
    await asyncio.sleep(seconds / 2)
    if rewrite:
        async with connect(redis.settings) as store:
            await store.bgrewriteaof()
    await asyncio.sleep(seconds / 2)
    redis.lose_power()
    await asyncio.gather(*writers)
    redis.start()


async def settle(redis: FragileRedis, record: CollectionRecord, told: Journal) -> int:
    """Return how many documents are not what was acknowledged or, at most, what was written without an answer.

    What the store holds now is what later writes are compared with.
    """
    ids = list(told.acknowledged | told.unknown)
    lost = 0
    async with connect(redis.settings) as store:
        reader = DocumentReader(store)
        for start in range(0, len(ids), 1_000):
            chunk = ids[start : start + 1_000]
            for id, document in zip(chunk, await reader.get(record, chunk), strict=True):
                version = 0 if document is None else document.version
                lost += version not in (told.acknowledged.get(id, 0), told.unknown.get(id))
                told.acknowledged[id] = version
    told.unknown.clear()
    return lost


async def run(redis: FragileRedis, cycles: int, seed: int) -> tuple[int, int]:
    """Return how many writes were acknowledged, and how many documents were lost, in so many losses of power."""
    rng = random.Random(seed)
    told, lost = Journal(), 0
    redis.start()
    try:
        async with connect(redis.settings) as store:
            record = (await World.create(store, partitions=WRITERS)).record
            await store.execute_command("WAITAOF", 1, 0, 5_000)  # the control shall lose documents, not the collection
        for cycle in range(cycles):
            await write_then_lose_power(redis, record, told, rng.uniform(0.5, 1.2), rewrite=cycle % 2 == 1)
            lost += await settle(redis, record, told)
        return told.writes, lost
    finally:
        redis.kill()


@pytest.mark.parametrize(
    ("cycles", "writes_min"),
    [
        pytest.param(4, 5_000, id="short"),
        pytest.param(20, 100_000, id="long", marks=pytest.mark.slow),
    ],
)
async def test_power_loss_takes_nothing_that_was_acknowledged(
    tmp_path: Path, cycles: int, writes_min: int, measured: Measured
) -> None:
    """Users would lose documents that were confirmed when the machine of the store loses power."""
    writes, lost = await run(FragileRedis(tmp_path / "always"), cycles, seed=1)
    measured(f"{cycles} losses of power, {writes} acknowledged writes, {lost} lost")
    assert writes >= writes_min, "void: too few writes to prove anything"
    assert lost == 0


async def test_the_loss_of_power_is_real(tmp_path: Path, measured: Measured) -> None:
    """Negative control: a store that flushes once a second must lose confirmed writes, or nothing was discarded."""
    redis = FragileRedis(tmp_path / "everysec", "--appendfsync", "everysec")
    writes, lost = await run(redis, cycles=3, seed=2)
    measured(f"appendfsync everysec: 3 losses of power, {writes} acknowledged writes, {lost} lost")
    assert lost > 0
