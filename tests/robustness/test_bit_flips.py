"""Single bits flip in everything that is stored, 1,000 in all: each is found or does not matter, none is served."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.core.errors import CorruptSnapshot, UnsupportedSnapshot
from services.index.core.index import SparseIndex
from services.index.store.catalog import Catalog
from services.index.store.connection import connect
from services.index.store.functions import ensure_functions, functions_source
from services.index.store.keys import partition_keys, partition_of
from services.index.store.load import load_partition
from services.index.store.reader import DocumentReader
from services.index.store.tail import PartitionTail, read_tails
from services.runtime import metrics
from services.runtime.errors import CorruptRecord, CsrError, StoreUnavailable
from services.runtime.redis_binary import find_redis_server
from tests.services.index.world import World, place, random_code, search
from tests.support.deployment import eventually
from tests.support.index_server import IndexServerProcess
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.robustness

DOCUMENTS = 80
RECORDS, ENTRIES, SNAPSHOTS = 300, 300, 200
Fields = list[tuple[bytes, dict[bytes, bytes]]]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@asynccontextmanager
async def small_world(store: RedisServer) -> AsyncIterator[World]:
    """A collection of a few documents, some of them written twice and some deleted."""
    store.start()
    try:
        async with connect(store.patient_settings) as redis:
            world = await World.create(redis, name="small")
            await world.fill(np.random.default_rng(61), DOCUMENTS)
            yield world
    finally:
        store.kill()


async def test_a_flipped_record_is_never_served(tmp_path: Path, measured: Measured) -> None:
    """Users would get damaged documents from the store, and index servers would load and search them."""
    rng = random.Random(62)
    async with small_world(RedisServer(find_redis_server(), tmp_path)) as world:
        reader = DocumentReader(world.redis)
        for _ in range(RECORDS):
            id = f"doc-{rng.randrange(DOCUMENTS)}"
            partition = partition_of(id, world.record.partitions)
            docs = partition_keys(world.record.collection_id, partition).docs
            right = await world.redis.hget(docs, id)
            await world.redis.hset(docs, id, flipped(right, rng))
            with pytest.raises(CorruptRecord):
                await reader.get(world.record, [id])
            with pytest.raises(CorruptRecord):
                await load_partition(world.redis, world.record.collection_id, partition, "test")
            await world.redis.hset(docs, id, right)
    measured(f"{RECORDS} of {RECORDS} flips in records refused by Get and by loads")


async def test_a_flipped_log_entry_is_never_applied(tmp_path: Path, measured: Measured) -> None:
    """Index servers that follow the log would search damaged documents."""
    rng = random.Random(63)
    async with small_world(RedisServer(find_redis_server(), tmp_path)) as world:
        collection_id = world.record.collection_id
        for turn in range(ENTRIES):
            partition = turn % world.record.partitions
            key = partition_keys(collection_id, partition).log
            start = PartitionTail(collection_id, partition)
            [whole] = await read_tails(world.redis, [start])
            assert whole.reload is None
            right = await world.redis.dump(key)
            items: Fields = await world.redis.xrange(key)
            place = rng.randrange(len(items))
            field = rng.choice(sorted(items[place][1]))
            items[place][1][field] = flipped(items[place][1][field], rng)
            await rewrite(world.redis, key, items)
            [read] = await read_tails(world.redis, [start])
            assert read.reload is not None, f"field {field!r}"
            assert read.entries == whole.entries[:place], f"field {field!r}"
            await world.redis.restore(key, 0, right, replace=True)
    measured(f"{ENTRIES} of {ENTRIES} flips in log entries stopped the reader right before them")


async def rewrite(redis: Redis, key: str, items: Fields) -> None:
    """Replace a stream."""
    await redis.delete(key)
    async with redis.pipeline(transaction=False) as calls:
        for stream_id, fields in items:
            calls.xadd(key, fields, id=stream_id)
        await calls.execute()


def test_a_flipped_snapshot_of_the_index_is_refused(tmp_path: Path, measured: Measured) -> None:
    """An index server would search damaged codes after every restart."""
    rng = random.Random(64)
    generator = np.random.default_rng(64)
    codes = [random_code(generator) for _ in range(500)]
    index = SparseIndex(64, 8)
    index.upsert_quantised(
        [f"doc-{row}" for row in range(len(codes))],
        np.full(len(codes), 8),
        np.concatenate([code.latents for code in codes]),
        np.concatenate([code.weights for code in codes]),
    )
    index.save(tmp_path / "snapshot")
    files = sorted(path for path in (tmp_path / "snapshot").rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    for _ in range(SNAPSHOTS):
        [path] = rng.choices(files, weights=sizes)
        if rng.random() < 0.3:
            path = rng.choice(files)  # small ones, too
        right = path.read_bytes()
        path.unlink()  # a snapshot shares files with others by hard links
        path.write_bytes(flipped(right, rng))
        with pytest.raises((CorruptSnapshot, UnsupportedSnapshot)):
            SparseIndex.load(tmp_path / "snapshot")
        path.write_bytes(right)
    assert len(SparseIndex.load(tmp_path / "snapshot")) == len(codes)
    measured(f"{SNAPSHOTS} of {SNAPSHOTS} flips in snapshots of the index refused")


@pytest.mark.parametrize(
    "count",
    [pytest.param(4, id="short"), pytest.param(50, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])],
)
async def test_an_index_server_does_not_start_from_a_flipped_snapshot(
    tmp_path: Path, count: int, measured: Measured
) -> None:
    """A disk that damages a snapshot would change answers after a restart, and nobody would notice."""
    rng = random.Random(66)
    folder = tmp_path / "snapshots"
    options = {"CSR_INDEX__SNAPSHOT_DIR": str(folder), "CSR_INDEX__SNAPSHOT_SECONDS": "0.2"}
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    server = IndexServerProcess(store.url, tmp_path, "index-0", **options)
    async with small_world(store) as world:
        await place(world.redis, [server])
        await asyncio.to_thread(server.start)
        eventually(lambda: server.metric(metrics.INDEX_SNAPSHOTS_TAKEN.name) > 0, seconds=60)
        server.kill()
        shutil.copytree(folder, tmp_path / "right")
        queries = [random_code(np.random.default_rng(seed)) for seed in range(5)]
        for _ in range(count):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "right", folder)
            path = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size])
            path.write_bytes(flipped(path.read_bytes(), rng))
            await asyncio.to_thread(server.start)
            assert server.metric(metrics.INDEX_SNAPSHOTS_REFUSED.name) == 1, path
            answer = await search(server, world.record, queries, positions=world.positions)
            assert answer.hits == world.expected(queries, world.positions)
            server.kill()
    measured(f"{count} of {count} flips in snapshots refused by a server that starts")


@dataclass(frozen=True)
class Truth:
    """What the store held before a bit flipped: tails and state digests by partition, and the world."""

    world: World
    tails: list[PartitionTail]
    digests: list[bytes]


@pytest.mark.parametrize(
    "count",
    [pytest.param(12, id="short"), pytest.param(150, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])],
)
async def test_a_flipped_append_only_file_never_brings_other_documents(
    tmp_path: Path, count: int, measured: Measured
) -> None:
    """A disk that damages the store's file would change documents, and nobody would notice."""
    rng = random.Random(65)
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    async with small_world(store) as world:
        await world.redis.bgrewriteaof()
        await world.upsert({f"late-{row}": random_code(np.random.default_rng(row)) for row in range(DOCUMENTS)})
        truth = await take_truth(world)
    shutil.move(tmp_path / "redis", tmp_path / "right")
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        shutil.rmtree(tmp_path / "redis", ignore_errors=True)
        shutil.copytree(tmp_path / "right", tmp_path / "redis")
        files = sorted((tmp_path / "redis" / "appendonlydir").iterdir())
        [path] = rng.choices(files, weights=[path.stat().st_size for path in files])
        path.write_bytes(flipped(path.read_bytes(), rng))
        outcomes[await outcome(store, truth)] += 1
    measured(f"{count} flips in the append-only file: {dict(outcomes)}")
    assert not any(outcome.startswith("served") for outcome in outcomes)


async def take_truth(world: World) -> Truth:
    """Return where the logs end, and the state digests there."""
    starts = [PartitionTail(world.record.collection_id, partition) for partition in range(world.record.partitions)]
    batches = await read_tails(world.redis, starts, entries_max=100_000)
    loads = [await load_partition(world.redis, start.collection_id, start.partition, "test") for start in starts]
    return Truth(world, [batch.tail for batch in batches], [load.digest for load in loads])


async def outcome(store: RedisServer, truth: Truth) -> str:
    """Start the store on damaged files and do what servers do; return what became of the damage."""
    try:
        store.start()
    except RuntimeError:
        return "the store refuses to start"
    try:
        async with connect(store.patient_settings) as redis:
            return await outcome_of_reads(redis, truth)
    finally:
        store.kill()


async def outcome_of_reads(redis: Redis, truth: Truth) -> str:
    """Read everything that is served or searched, as routers and index servers do."""
    record, expected = truth.world.record, truth.world.documents(truth.world.positions)
    ids = [f"doc-{row}" for row in range(DOCUMENTS)] + [f"late-{row}" for row in range(DOCUMENTS)]
    try:
        await ensure_functions(redis)
        catalogued = await Catalog(redis).get(record.name)
        loads = [await load_partition(redis, record.collection_id, tail.partition, "test") for tail in truth.tails]
        documents = await DocumentReader(redis).get(record, ids)
        followed = await read_tails(redis, truth.tails)
        [library] = await redis.function_list("csr", withcode=True)
    except (CsrError, StoreUnavailable) as error:
        return f"{type(error).__name__} when read"
    if any(batch.reload for batch in followed):
        return "found by index servers that follow the log"
    found = {document.id: document.version for document in documents if document is not None}
    if found.keys() != expected.keys() or [load.digest for load in loads] != truth.digests:
        return "served"
    if catalogued != record:
        return "served another catalogue record"
    if functions_source().encode() not in library:
        return "served by damaged functions"
    return "no effect on what is served"
