"""An index server misses more of the log than is kept, or loads partitions while they change fast."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.index.store.connection import connect
from services.index.store.entry import QuantisedCode
from services.index.store.keys import partition_of
from services.runtime import metrics
from services.runtime.redis_binary import find_redis_server
from tests.robustness.checker import check
from tests.robustness.corpus import Corpus
from tests.robustness.load import PARTITIONS, Load
from tests.services.index.world import World, place, random_code, search
from tests.support.deployment import Deployment
from tests.support.index_server import IndexServerProcess
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.robustness

LOG_BYTES = 1 << 20
BATCH = 100
IDS_PER_WRITER = 1_500


def test_a_server_that_missed_more_than_the_log_keeps_is_exact_again(tmp_path: Path, measured: Measured) -> None:
    """A server that was stopped for long would miss documents for ever, or keep deleted ones."""
    corpus = Corpus(seed=51)
    deployment = Deployment(
        tmp_path,
        CSR_LOG__PARTITION_BYTES=str(LOG_BYTES),
        CSR_INDEX__SNAPSHOT_DIR=str(tmp_path / "snapshots"),
        CSR_INDEX__SNAPSHOT_SECONDS="0.5",
    )
    paused, killed = deployment.index_servers
    load = Load(deployment.router.address, corpus, seed=51)
    try:
        deployment.start()
        load.create()
        with load.working():
            time.sleep(1.0)
        loads = paused.metric(metrics.INDEX_RELOADS.name)
        paused.pause()
        killed.kill()
        load.fill_log(4 * LOG_BYTES * PARTITIONS)
        with load.working():
            began = time.monotonic()
            paused.resume()
            killed.start()
            ready = time.monotonic() - began
            time.sleep(2.0)
        loads = paused.metric(metrics.INDEX_RELOADS.name) - loads
        recording = load.recording()
    finally:
        deployment.stop()
    measured(f"{loads:.0f} partitions loaded anew by the paused server, the killed one ready in {ready:.1f} s")
    assert loads > 0, "void: the log was not trimmed past the paused server"
    assert load.wrong == []
    assert check(recording, corpus.scores)[:10] == []


async def write_without_pause(world: World, partition: int, pool: Sequence[QuantisedCode], stop: asyncio.Event) -> int:
    """Write batches of one partition until told to stop; return how many documents that were."""
    own = (f"{partition}-{number}" for number in itertools.count())
    ids = list(
        itertools.islice((id for id in own if partition_of(id, world.record.partitions) == partition), IDS_PER_WRITER)
    )
    written = 0
    while not stop.is_set():
        batch = ids[written % len(ids) :][:BATCH]
        await world.upsert({id: pool[(written + row) % len(pool)] for row, id in enumerate(batch)})
        written += len(batch)
    return written


@pytest.mark.parametrize(
    ("seconds", "rate_min"),
    [
        pytest.param(3.0, 1_000, id="short"),
        pytest.param(30.0, 10_000, id="long", marks=pytest.mark.slow),
    ],
)
async def test_partitions_load_while_they_change_fast(
    tmp_path: Path, seconds: float, rate_min: int, measured: Measured
) -> None:
    """A server that starts while much is written would never become ready, or answer from a mixture of states."""
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    server = IndexServerProcess(store.url, tmp_path)
    rng = np.random.default_rng(52)
    pool = [random_code(rng) for _ in range(257)]
    store.start()
    try:
        async with connect(store.patient_settings) as redis:
            await place(redis, [server])
            world = await World.create(redis)
            await world.fill(rng, 1_000)
            stop = asyncio.Event()
            partitions = range(world.record.partitions)
            writers = [asyncio.create_task(write_without_pause(world, p, pool, stop)) for p in partitions]
            began = time.monotonic()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(server.start)
            ready = time.monotonic() - began - 1.0
            await asyncio.sleep(seconds)
            stop.set()
            rate = sum(await asyncio.gather(*writers)) / (time.monotonic() - began)
            began = time.monotonic()
            answer = await search(server, world.record, pool[:10], positions=world.positions, timeout=60.0)
            caught_up = time.monotonic() - began
    finally:
        server.kill()
        store.kill()
    measured(f"ready in {ready:.1f} s at {rate:.0f} writes/s; caught up {caught_up:.2f} s after the last write")
    assert answer.positions == world.positions
    assert answer.hits == world.expected(pool[:10], world.positions)
    assert rate >= rate_min, "void: too few writes to prove anything"
