"""An index server with a million documents dies and comes back: from Redis alone, and from a snapshot."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from services.index.core.code import quantise
from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord, new_collection_id
from services.index.store.connection import connect
from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.functions import ensure_functions
from services.index.store.keys import partition_of
from services.index.store.writer import DocumentWrite, LogWriter
from services.runtime import metrics
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import LogSettings
from tests.services.index.core import oracle
from tests.services.index.world import FINGERPRINT, as_ragged, place, search
from tests.support.deployment import eventually
from tests.support.index_server import IndexServerProcess
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.robustness, pytest.mark.slow, pytest.mark.timeout(1_800)]

DOCUMENTS, LATER, PARTITIONS = 1_000_000, 1_000, 16
HIDDEN_DIM, K = 8_192, 32
FROM_REDIS_SECONDS, FROM_SNAPSHOT_SECONDS = 10.0, 5.0
"""Goals, which are reported and not asserted: they depend on the machine."""


@dataclass
class Million:
    """A large collection in Redis, and the same documents as arrays.

    Attributes:
        latents: uint16 [documents, K]; document i has the id d<i>.
        weights: uint16 [documents, K].
        positions: Of the logs, by partition.
    """

    redis: Redis
    record: CollectionRecord
    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]
    positions: dict[int, int]

    async def write(self, rows: range) -> None:
        """Store these documents, several partitions at a time."""
        members: dict[int, list[DocumentWrite]] = {partition: [] for partition in range(PARTITIONS)}
        for row in rows:
            body = DocumentBody(codes={1: QuantisedCode(self.latents[row], self.weights[row])})
            write = DocumentWrite(f"d{row}", 0, False, body, input_digest(b"%d" % row))
            members[partition_of(write.id, PARTITIONS)].append(write)
        writer = LogWriter(self.redis, LogSettings())
        results = await asyncio.gather(
            *(writer.write(self.record, partition, writes, f"{rows}") for partition, writes in members.items())
        )
        self.positions |= {partition: result.lsn for partition, result in zip(members, results, strict=True)}

    async def check(self, server: IndexServerProcess, documents: int) -> None:
        """Compare the answers at the positions with brute force over the first so many documents."""
        table = oracle.Table(
            [f"d{row}" for row in range(documents)],
            self.latents[:documents].astype(np.int64),
            self.weights[:documents].astype(np.int64),
        )
        rows = [*range(0, documents, documents // 10), documents - 1]
        queries = [QuantisedCode(self.latents[row], self.weights[row]) for row in rows]
        answer = await search(server, self.record, queries, positions=self.positions, timeout=60.0, k_query=K, k_docs=K)
        assert answer.positions == self.positions
        sent = as_ragged(queries)
        codes = zip(sent.latents.reshape(-1, K).tolist(), sent.weights.reshape(-1, K).tolist(), strict=True)
        assert answer.hits == [table.search(oracle.stored_code(*code), 10, K, K) for code in codes]


async def write_million(redis: Redis) -> Million:
    """Create the collection and store all but the last documents."""
    await ensure_functions(redis)
    generation = GenerationRecord(1, "active", "model", 1, FINGERPRINT, HIDDEN_DIM)
    record = CollectionRecord(
        name="million",
        collection_id=new_collection_id(),
        kind="codes",
        versioning="assigned",
        input_dim=0,
        k_max=K,
        partitions=PARTITIONS,
        generations=(generation,),
    )
    await Catalog(redis).create(record)
    chunks = list(random_codes(DOCUMENTS + LATER))
    latents, weights = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    million = Million(redis, record, latents, weights, {})
    for first in range(0, DOCUMENTS, 20_000):
        await million.write(range(first, first + 20_000))
    return million


def random_codes(rows: int) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint16]]]:
    """Yield stored codes, some rows at a time: K different latents each."""
    rng = np.random.default_rng(101)
    for first in range(0, rows, 50_000):
        count = min(50_000, rows - first)
        # Odd steps visit every latent once before any comes again.
        steps = 2 * rng.integers(HIDDEN_DIM // 2, size=(count, 1)) + 1
        latents = (rng.integers(HIDDEN_DIM, size=(count, 1)) + steps * np.arange(K)) % HIDDEN_DIM
        weights = -np.sort(-rng.random((count, K), np.float32) - 0.05, axis=1)
        stored = quantise(latents, weights, hidden_dim=HIDDEN_DIM, active_max=K)
        yield stored.latents, stored.weights


async def started(server: IndexServerProcess) -> float:
    """Start a server; return the seconds until it reports that it is ready."""
    began = time.monotonic()
    await asyncio.to_thread(server.start)
    return time.monotonic() - began


async def test_a_million_documents_are_back_in_seconds(tmp_path: Path, measured: Measured) -> None:
    """Every restart of an index server would cost minutes of answers, or wrong ones."""
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    server = IndexServerProcess(store.url, tmp_path, "index-0")
    snapshots = {"CSR_INDEX__SNAPSHOT_DIR": str(tmp_path / "snapshots"), "CSR_INDEX__SNAPSHOT_SECONDS": "1"}
    with_snapshots = IndexServerProcess(store.url, tmp_path, "index-0", **snapshots)
    store.start()
    try:
        async with connect(store.patient_settings) as redis:
            await place(redis, [server])
            million = await write_million(redis)
            await started(server)  # compiles what is not compiled yet
            server.kill()
            from_redis = await started(server)
            await million.check(server, DOCUMENTS)
            server.kill()

            await place(redis, [with_snapshots])
            await started(with_snapshots)
            eventually(lambda: with_snapshots.metric(metrics.INDEX_SNAPSHOTS_TAKEN.name) > 0, seconds=120)
            with_snapshots.kill()
            await million.write(range(DOCUMENTS, DOCUMENTS + LATER))
            from_snapshot = await started(with_snapshots)
            restored = with_snapshots.metric(metrics.INDEX_SNAPSHOTS_RESTORED.name)
            await million.check(with_snapshots, DOCUMENTS + LATER)
    finally:
        server.kill()
        with_snapshots.kill()
        store.kill()
    measured(
        f"{DOCUMENTS} documents of {K} latents: ready after {from_redis:.1f} s from Redis (goal "
        f"{FROM_REDIS_SECONDS:.0f} s), after {from_snapshot:.1f} s from a snapshot and the log behind it (goal "
        f"{FROM_SNAPSHOT_SECONDS:.0f} s)"
    )
    assert restored == 1, "void: the snapshot was not used"
