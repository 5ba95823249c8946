"""One writer and many readers: every answer is that of one moment."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from services.index.core import segment, writer
from services.index.core.index import SparseIndex
from services.index.core.warmup import warmup
from services.index.core.where import Eq, Range
from tests.services.index.core import oracle

SECONDS = 2
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


class History:
    """Documents of an index after each batch: version v is visible from some moment between its write's begin and end.

    Attributes:
        begun: The newest version whose write has begun.
        ended: The newest version whose write has returned.
    """

    def __init__(self, seed: int) -> None:
        self.index = SparseIndex(LATENTS, 4, {"even": "bool"})
        self.versions: list[dict[str, oracle.Document]] = [{}]
        self.begun = self.ended = 0
        self._rng = np.random.default_rng(seed)
        self._names = [f"doc-{row:02d}" for row in range(DOCUMENTS)]

    def write(self) -> None:
        """Write one more version: a batch of documents that are new, replaced or removed."""
        names = self._rng.choice(self._names, self._rng.integers(1, 8), replace=False).tolist()
        documents = dict(self.versions[-1])
        if self._rng.random() < 0.3:
            documents = {name: document for name, document in documents.items() if name not in names}
            self._publish(documents, lambda: self.index.delete(names))
            return
        latents = np.array([self._rng.choice(LATENTS, 4, replace=False) for _ in names])
        weights = -np.sort(-self._rng.integers(0, 5, latents.shape)).astype(np.float32)
        records = [{"even": bool(self._rng.integers(2))} for _ in names]
        for row, name in enumerate(names):
            documents[name] = oracle.Document(oracle.stored_code(latents[row], weights[row]), records[row])
        self._publish(documents, lambda: self.index.upsert(names, latents, weights, records))

    def _publish(self, documents: dict[str, oracle.Document], write: Callable[[], object]) -> None:
        self.versions.append(documents)
        self.begun += 1
        write()
        self.ended += 1


QUERIES = {
    "wide": (list(range(LATENTS)), [1.0] * LATENTS),
    "narrow": ([3, 5, 9], [3.0, 2.0, 1.0]),
    "single": ([7], [1.0]),
}


@dataclass(frozen=True)
class Seen:
    """One answer, and the versions one of which it must be of."""

    query: str
    k_docs: int
    filtered: bool
    since: int
    until: int
    hits: list[tuple[str, float]]

    def is_right(self, history: History) -> bool:
        """Return whether the answer is exactly that of one version."""
        query = oracle.stored_code(*QUERIES[self.query])
        return any(
            self.hits
            == oracle.search(
                history.versions[version],
                query,
                10,
                k_docs=self.k_docs,
                matches=lambda document: not self.filtered or document.fields.get("even") is True,
            )
            for version in range(self.since, self.until + 1)
        )


@pytest.mark.parametrize("seconds", [4, pytest.param(75, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_answer_is_that_of_one_version(seconds: float, tmp_path: Path) -> None:
    """A search during writes and merges would miss a document, find it twice, or mix two moments, and nobody knew."""
    history, failures = History(0), list[BaseException]()
    answers: list[list[Seen]] = [[], []]
    restored: list[tuple[int, int, list[str]]] = []

    def write() -> None:
        history.write()

    def read(reader: int, rng: np.random.Generator) -> None:
        name, k_docs, filtered = list(QUERIES)[rng.integers(3)], int(rng.choice([1, 4])), bool(rng.integers(2))
        latents, weights = (np.array([part]) for part in QUERIES[name])
        # The planner would score every row of segments as small as these.
        kernel = (None, "accumulate", "block-max")[rng.integers(3)]
        since = history.ended
        hits = history.index.search(
            latents,
            weights.astype(np.float32),
            10,
            k_docs=k_docs,
            where=Eq("even", True) if filtered else None,
            kernel=kernel,
        )[0]
        answers[reader].append(Seen(name, k_docs, filtered, since, history.begun, hits))

    def save() -> None:
        path = tmp_path / str(len(restored))
        since = history.ended
        history.index.save(path)
        restored.append((since, history.begun, SparseIndex.load(path).ids()))
        shutil.rmtree(path)

    def repeat(work: Callable[[], None]) -> None:
        try:
            while time.monotonic() < stop and not failures:
                work()
        except BaseException as error:
            failures.append(error)

    with (
        mock.patch.object(writer, "SEAL_ROWS", 16),
        mock.patch.object(writer, "SEGMENTS_MAX", 2),
        mock.patch.object(segment, "ROWS_MAX", 48),
        mock.patch("os.fsync"),  # hundreds of snapshots need no disk that survives a power cut
    ):
        history.index._writer = writer.Writer(LATENTS, 4, history.index.fields)
        stop = time.monotonic() + seconds
        readers = [partial(read, reader, np.random.default_rng(reader)) for reader in range(2)]
        threads = [threading.Thread(target=repeat, args=(each,)) for each in (write, save, *readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history.index.settle()
    assert not failures, failures[0]
    assert history.ended > 50
    for seen in answers[0][-5_000:] + answers[1][-5_000:]:
        assert seen.is_right(history), seen
    assert min(len(answers[0]), len(answers[1]), len(restored)) > 5
    for since, until, names in restored:
        assert any(names == sorted(history.versions[version]) for version in range(since, until + 1))
