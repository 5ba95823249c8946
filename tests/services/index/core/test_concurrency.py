"""One writer and many readers: every answer is that of one moment."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest

from services.index.core import writer
from services.index.core.index import SparseIndex
from services.index.core.warmup import warmup
from services.index.core.where import Eq, Range

SECONDS = 3
LATENTS = 16
DOCUMENTS = 40


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Compile first, then let threads change places 50 times as often as usual: more ways to interleave."""
    warmup()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_readers_see_whole_batches_only() -> None:
    """A search during a write would miss documents, find them twice, or mix two versions."""
    index = SparseIndex(LATENTS, 2, {"version": "int", "parity": "keyword"})
    names = [f"doc-{row:02d}" for row in range(DOCUMENTS)]
    failures: list[BaseException] = []
    rounds = {"write": 0, "read": 0}

    def write_version(version: int) -> None:
        latent = version % LATENTS
        latents = np.tile([latent, (latent + 1) % LATENTS], (DOCUMENTS, 1))
        weights = np.tile(np.array([[2.0, 1.0]], np.float32), (DOCUMENTS, 1))
        records = [{"version": version, "parity": ("even", "odd")[version % 2]}] * DOCUMENTS
        index.upsert(names, latents, weights, records)

    def write() -> None:
        while time.monotonic() < stop and not failures:
            rounds["write"] += 1
            write_version(rounds["write"])

    def read() -> None:
        every_latent = np.arange(LATENTS)[None], np.ones((1, LATENTS), np.float32)
        each_latent = np.arange(LATENTS)[:, None], np.ones((LATENTS, 1), np.float32)
        seen = 0
        while time.monotonic() < stop and not failures:
            at_least = rounds["write"] - 1  # the write before the current one has returned
            hits = index.search(*every_latent, 1000)[0]
            assert [name for name, _ in hits] == names
            assert len({score for _, score in hits}) == 1
            newer = index.search(*every_latent, 1000, where=Range("version", gte=max(seen, at_least)))[0]
            assert newer == hits
            seen = max(seen, at_least)
            parities = [len(index.search(*every_latent, 1000, where=Eq("parity", word))[0]) for word in ("even", "odd")]
            assert set(parities) <= {0, DOCUMENTS}
            found = [len(hits) for hits in index.search(*each_latent, 1000, threads=2)]
            assert sorted(found) == [0] * (LATENTS - 2) + [DOCUMENTS] * 2
            assert len(index) == DOCUMENTS
            assert index.ids() == names
            rounds["read"] += 1

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    with mock.patch.object(writer, "SEAL_ROWS", 64), mock.patch.object(writer, "SEGMENTS_MAX", 3):
        write_version(0)
        stop = time.monotonic() + SECONDS
        threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, read, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]
    assert min(rounds.values()) > 5


def test_writers_wait_for_each_other() -> None:
    """Two partitions tailed at once would lose each other's documents."""
    index = SparseIndex(LATENTS, 1)
    with mock.patch.object(writer, "SEAL_ROWS", 16):
        index._writer = writer.Writer(LATENTS, 1, {})

        def write(partition: int) -> None:
            for row in range(100):
                index.upsert([f"{partition}-{row}"], np.array([[row % LATENTS]]), np.ones((1, 1), np.float32))
                if row % 3 == 0:
                    index.delete([f"{partition}-{row}"])

        threads = [threading.Thread(target=write, args=(partition,)) for partition in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert index.ids() == sorted(f"{partition}-{row}" for partition in range(4) for row in range(100) if row % 3)
