"""Background merges: what is merged when, and that no document is lost, doubled or resurrected by one."""

import gc
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.index.core import merging, segment, writer
from services.index.core.index import SparseIndex
from services.index.core.rows import Rows
from services.index.core.segment import Part, Segment
from tests.services.index.core import oracle
from tests.services.index.core.data import held

LATENTS = 8
NAMES = [f"doc-{row:02d}" for row in range(40)]
EVERY_LATENT = np.arange(LATENTS)[None], np.ones((1, LATENTS), np.float32)
REAL_BUILD = segment.build


class Steps:
    """Stands in for the merge thread: merges run when and where the test says."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Queue a merge."""
        self.waiting.append(work)

    def run_one(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run the oldest merge, if there is one; `meanwhile` happens when its segment is built but not published."""

        def build(*arguments: Any) -> Segment:
            with mock.patch.object(segment, "build", REAL_BUILD):
                built = REAL_BUILD(*arguments)
                meanwhile()
                return built

        if self.waiting:
            with mock.patch.object(segment, "build", build):
                self.waiting.pop(0)()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Return the merges of all indexes, in the test's hands."""
    for thread in threading.enumerate():
        if thread.name == "merge":  # of an index of an earlier test, whose next merge would be queued here
            thread.join()
    steps = Steps()
    monkeypatch.setattr(writer, "_merges", steps)
    return steps


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let four rows fill the memtable, and merge as soon as there are three segments."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 4)
    monkeypatch.setattr(writer, "SEGMENTS_MAX", 2)


def put(index: SparseIndex, names: list[str], latent: int = 0) -> None:
    """Write documents of one latent."""
    index.upsert(names, np.full((len(names), 1), latent), np.ones((len(names), 1), np.float32))


def found(index: SparseIndex, latent: int) -> list[str]:
    """Return the documents of a latent."""
    return [name for name, _ in index.search(np.array([[latent]]), np.ones((1, 1), np.float32), 1000)[0]]


class MergingMachine(RuleBasedStateMachine):
    """Any interleaving of writes with merges: before, during and after them, failing ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = Steps()
        self.patches = [
            mock.patch.object(writer, "_merges", self.steps),
            mock.patch.object(writer, "SEAL_ROWS", 4),
            mock.patch.object(writer, "SEGMENTS_MAX", 2),
            mock.patch.object(writer, "SEGMENTS_BOUND", 5),
            mock.patch.object(segment, "ROWS_MAX", 20),
        ]
        for patch in self.patches:
            patch.start()
        logging.getLogger(writer.__name__).disabled = True

    def teardown(self) -> None:
        """Undo the patches."""
        logging.getLogger(writer.__name__).disabled = False
        for patch in self.patches:
            patch.stop()

    @initialize()
    def create(self) -> None:
        """Start empty."""
        self.index = SparseIndex(LATENTS, 2)
        self.documents: dict[str, oracle.Document] = {}

    def write(self, names: list[str], seed: int) -> None:
        """Add or replace documents, or, where the seed is even, remove them or the partition that it names."""
        if seed % 8 == 0:
            partition = seed // 8 % 3
            gone = [name for name, document in self.documents.items() if document.partition == partition]
            assert self.index.drop_partitions([partition]) == len(gone)
            self.documents = {name: found for name, found in self.documents.items() if name not in gone}
            return
        if seed % 2 == 0:
            known = [name for name in names if self.documents.pop(name, None)]
            assert self.index.delete(names) == len(known)
            return
        rng = np.random.default_rng(seed)
        latents = np.array([rng.choice(LATENTS, 2, replace=False) for _ in names], np.int64).reshape(-1, 2)
        weights = -np.sort(-rng.integers(1, 9, latents.shape)).astype(np.float32)
        owners, versions = rng.integers(0, 3, len(names)).tolist(), rng.integers(0, 99, len(names)).tolist()
        self.index.upsert(names, latents, weights, None, owners, versions)
        for name, owner, version, *code in zip(names, owners, versions, latents, weights, strict=True):
            self.documents[name] = oracle.Document(oracle.stored_code(*code), {}, owner, version)

    batch = st.tuples(st.lists(st.sampled_from(NAMES), unique=True, max_size=9), st.integers(0, 1 << 16))

    @rule(batches=st.lists(batch, min_size=1, max_size=4))
    def change(self, batches: list[tuple[list[str], int]]) -> None:
        """Write with merges waiting."""
        for batch in batches:
            self.write(*batch)

    @rule(batches=st.lists(batch, max_size=3))
    def merge(self, batches: list[tuple[list[str], int]]) -> None:
        """Write while a merge is running."""

        def meanwhile() -> None:
            for names, seed in batches:
                if len(merging.small(self.index.state.parts)) < writer.SEGMENTS_BOUND:  # or it would wait for itself
                    self.write(names, seed)

        self.steps.run_one(meanwhile)

    @rule()
    def fail(self) -> None:
        """Let a merge run out of memory."""

        def full() -> None:
            raise MemoryError

        self.steps.run_one(full)

    @rule()
    def settle(self) -> None:
        """Do all merges."""
        while self.steps.waiting:
            self.steps.run_one()
        if self.index._writer._failure is None:
            assert len(merging.small(self.index.state.parts)) <= writer.SEGMENTS_MAX

    @invariant()
    def holds_exactly_the_documents(self) -> None:
        """Every document is there once, in its last version."""
        if hasattr(self, "index"):
            query = oracle.stored_code(*(part[0] for part in EVERY_LATENT))
            assert self.index.search(*EVERY_LATENT, 1000) == [oracle.search(self.documents, query, 1000)]
            expected = {name: (document.version, document.partition) for name, document in self.documents.items()}
            assert held(self.index) == expected
            assert all(len(part.segment) <= segment.ROWS_MAX for part in self.index.state.parts)


MergingMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(900)  # a failing history is shrunk for minutes, and worth it
class TestMergingMachine(MergingMachine.TestCase):  # type: ignore[name-defined, misc]
    """A document that a merge loses, doubles or brings back would show here."""


@pytest.mark.usefixtures("small_segments")
def test_what_is_deleted_or_replaced_during_a_merge_stays_so(steps: Steps) -> None:
    """Documents that users deleted would come back when the merge ends."""
    index = SparseIndex(LATENTS, 1)
    for begin in (0, 4, 8):
        put(index, NAMES[begin : begin + 4])

    def meanwhile() -> None:
        assert index.delete(NAMES[:5]) == 5  # all documents of one of the three segments, and one of another
        put(index, NAMES[8:9], latent=1)

    steps.run_one(meanwhile)
    assert found(index, 0) == [*NAMES[5:8], *NAMES[9:12]]
    assert found(index, 1) == NAMES[8:9]
    assert len(index.state.parts) == 1


@pytest.mark.usefixtures("small_segments")
def test_a_segment_that_dies_during_its_merge_is_gone(steps: Steps) -> None:
    """An empty segment would cost every search, or stop the index with an error."""
    index = SparseIndex(LATENTS, 1)
    for begin in (0, 4, 8):
        put(index, NAMES[begin : begin + 4])
    steps.run_one(lambda: cast(None, index.delete(NAMES)))
    assert (index.state.parts, index.ids(), steps.waiting) == ((), [], [])


def part(documents: int, rows: int | None = None) -> Part:
    """Return what the choice of merges looks at: a part's documents and its segment's rows."""
    return Part(cast(Segment, range(documents if rows is None else rows)), np.zeros(0, np.uint64), documents)


def merged(parts: list[Part], merge: merging.Merge) -> list[Part]:
    """Return the parts after a merge."""
    gone = set(map(id, merge.parts))
    return [other for other in parts if id(other) not in gone] + [part(merge.documents)]


@pytest.mark.parametrize("seals", [16, 64, 256, 1_024])
def test_each_document_is_rewritten_a_logarithmic_number_of_times(seals: int) -> None:
    """Merging would eat ever more of the processors as a collection grows."""
    rewritten = 0
    parts: list[Part] = []
    for _ in range(seals):
        parts.append(part(1))
        while (merge := merging.due(parts, writer.SEGMENTS_MAX)) is not None:
            rewritten += merge.documents
            parts = merged(parts, merge)
        assert len(parts) <= writer.SEGMENTS_MAX
    assert rewritten < math.log2(seals) * seals


def test_segments_stop_growing_at_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a longer segment would not fit its numbers; or merging large ones would never end."""
    monkeypatch.setattr(segment, "ROWS_MAX", 100)
    parts: list[Part] = []
    for _ in range(1_000):
        parts.append(part(1))
        while (merge := merging.due(parts, writer.SEGMENTS_MAX)) is not None:
            assert merge.documents <= 100
            parts = merged(parts, merge)
    assert len(merging.small(parts)) <= writer.SEGMENTS_MAX
    assert len(parts) <= writer.SEGMENTS_MAX + 1_000 // 50


def test_a_fifth_of_dead_rows_is_kept_and_more_is_rewritten() -> None:
    """Memory would grow with every deletion, or every deletion would rewrite its segment."""
    assert merging.due([part(8, rows=10), part(10)], 4) is None
    merge = merging.due([part(10), part(7, rows=10)], 4)
    assert merge is not None
    assert [len(rewritten.segment) for rewritten in merge.parts] == [10]
    assert merge.documents == 7


class Gate:
    """Holds every merge on the thread for merges, from the moment that it has begun until `open` is set."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def build(self, *arguments: Any) -> Segment:
        """Build a segment, a merged one only when that may end."""
        if threading.current_thread().name == "merge":
            self.begun.set()
            assert self.open.wait(60)
        return REAL_BUILD(*arguments)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate before the end of merges; the thread is the real one."""
    gate = Gate()
    monkeypatch.setattr(segment, "build", gate.build)
    yield gate
    gate.open.set()


@pytest.mark.usefixtures("small_segments")
def test_writes_and_searches_do_not_wait_for_a_merge(gate: Gate) -> None:
    """Every merge of a large collection would be an outage of seconds."""
    index = SparseIndex(LATENTS, 1)
    for begin in range(0, 20, 4):
        put(index, NAMES[begin : begin + 4])
    assert gate.begun.wait(60)
    assert index.delete(NAMES[:1]) == 1
    put(index, NAMES[20:21])
    assert found(index, 0) == NAMES[1:21]
    gate.open.set()
    index.settle()
    assert found(index, 0) == NAMES[1:21]
    assert len(index.state.parts) <= 2


@pytest.mark.usefixtures("small_segments")
def test_who_writes_faster_than_merges_end_has_to_wait(gate: Gate) -> None:
    """A bulk load would pile up segments until searches take seconds and memory runs out."""
    index = SparseIndex(LATENTS, 1)
    written = []

    def load() -> None:
        for batch in range(40):
            put(index, [f"{batch}-{row}" for row in range(4)])
            written.append(batch)
            assert batch < 5 or gate.begun.wait(60)

    loader = threading.Thread(target=load)
    loader.start()
    latest = time.monotonic() + 60
    while len(written) < writer.SEGMENTS_BOUND and time.monotonic() < latest:
        time.sleep(0.01)
    loader.join(0.5)  # and there it stays
    assert loader.is_alive()
    assert len(written) == len(index.state.parts) == writer.SEGMENTS_BOUND
    assert index.delete(["0-0"]) == 1  # adds nothing, so it need not wait
    gate.open.set()
    loader.join(60)
    index.settle()
    assert len(index) == 159


@pytest.mark.usefixtures("small_segments")
def test_nobody_waits_for_merges_of_other_indexes(gate: Gate) -> None:
    """One collection that merges millions of documents would stop the writes to all others for that long."""
    busy, other = SparseIndex(LATENTS, 1), SparseIndex(LATENTS, 1)
    for begin in range(0, 20, 4):
        put(busy, NAMES[begin : begin + 4])
    assert gate.begun.wait(60)

    def load() -> None:
        for batch in range(40):
            put(other, [f"{batch}-{row}" for row in range(4)])
        other.settle()

    loader = threading.Thread(target=load, daemon=True)
    loader.start()
    loader.join(30)
    assert not loader.is_alive()
    assert not gate.open.is_set()
    assert len(other) == 160
    assert len(other.state.parts) <= 2


@pytest.mark.usefixtures("small_segments")
def test_a_failed_merge_loses_nothing_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One failed allocation would end merging for good, unnoticed, or take the writers down with it."""
    failures = []

    def build(rows: Rows, *arguments: Any) -> Segment:
        if len(rows) > 4:
            failures.append(1)
            raise MemoryError("no room")
        return REAL_BUILD(rows, *arguments)

    monkeypatch.setattr(segment, "build", build)
    index = SparseIndex(LATENTS, 1)
    for begin in range(0, 40, 4):
        put(index, NAMES[begin : begin + 4])
    with pytest.raises(MemoryError, match="no room"):
        index.settle()
    seen = len(failures)
    assert index.delete(NAMES[:1]) == 1
    assert len(failures) == seen  # not at every write: that would fail again and again
    assert found(index, 0) == NAMES[1:]
    assert "a merge failed; its" in caplog.text
    assert "MemoryError: no room" in caplog.text
    monkeypatch.setattr(segment, "build", REAL_BUILD)
    put(index, [f"new-{row}" for row in range(4)], latent=1)
    index.settle()
    assert len(index.state.parts) <= 2
    assert found(index, 0) == NAMES[1:]


@pytest.mark.usefixtures("small_segments")
def test_a_dropped_index_is_freed_while_its_merge_waits(steps: Steps) -> None:
    """Deleting a collection would not give its memory back until the merges of all others are done."""
    index = SparseIndex(LATENTS, 1)
    for begin in range(0, 20, 4):
        put(index, NAMES[begin : begin + 4])
    rows = weakref.ref(index.state.parts[0].segment.rows.latents)
    assert len(steps.waiting) == 1
    del index
    gc.collect()
    assert rows() is None
    steps.run_one()
    assert steps.waiting == []


@pytest.mark.usefixtures("small_segments")
def test_many_indexes_share_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with 1,000 collections would run 1,000 threads."""
    seen = []

    def build(*arguments: Any) -> Segment:
        seen.append([thread.name for thread in threading.enumerate()].count("merge"))
        return REAL_BUILD(*arguments)

    monkeypatch.setattr(segment, "build", build)
    indexes = [SparseIndex(LATENTS, 1) for _ in range(30)]
    for begin in range(0, 40, 4):
        for index in indexes:
            put(index, NAMES[begin : begin + 4])
    for index in indexes:
        index.settle()
        assert found(index, 0) == NAMES
        assert len(index.state.parts) <= 2
    assert max(seen) == 1
