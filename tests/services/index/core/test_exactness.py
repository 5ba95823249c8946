"""The index against the oracle: identical ids, scores and order, whatever happened to it before."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.index.core import code, writer
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, In, Not, Or, Range
from tests.services.index.core import oracle
from tests.services.index.core.data import STYLES, Batch, batches, codes, single

NAMES = ["a", "b", "B", "ä", "a\x00", "aa", "日本", "z" * 128, *(f"doc-{i}" for i in range(22))]
FIELDS = {"language": "keyword", "year": "int", "price": "float", "public": "bool", "tags": "keywords"}
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "language": st.sampled_from(["de", "en", "日", None]),
        "year": st.integers(1998, 2003) | st.just(-(1 << 63)),
        "price": st.sampled_from([0, 0.5, -1.25, 1e300]),
        "public": st.booleans(),
        "tags": st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
    },
)
LEAVES = st.one_of(
    st.builds(Eq, st.just("language"), st.sampled_from(["de", "en", "fr"])),
    st.builds(Eq, st.just("tags"), st.sampled_from(["x", "y", "w"])),
    st.builds(Eq, st.just("public"), st.booleans()),
    st.builds(In, st.just("year"), st.tuples(st.integers(1998, 2003), st.integers(1998, 2003))),
    st.builds(In, st.just("tags"), st.just(("z", "q"))),
    st.builds(Range, st.just("year"), gte=st.integers(1998, 2003), lt=st.none() | st.integers(1998, 2003)),
    st.builds(Range, st.just("price"), gt=st.sampled_from([-2, 0, 0.25]), lte=st.sampled_from([0.5, 1e300])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(And, st.tuples(inner, inner)), st.builds(Or, st.tuples(inner, inner)), st.builds(Not, inner)
    ),
    max_leaves=4,
)


def matches(where: Any, fields: Any) -> bool:
    """Evaluate a filter on one document's values."""
    match where:
        case And(filters):
            return all(matches(child, fields) for child in filters)
        case Or(filters):
            return any(matches(child, fields) for child in filters)
        case Not(child):
            return not matches(child, fields)
    value = fields.get(where.field)
    if value is None:
        return False
    values = value if isinstance(value, list) else [value]
    match where:
        case Eq(_, wanted):
            return wanted in values
        case In(_, wanted):
            return any(item in wanted for item in values)
    return (
        (where.gte is None or value >= where.gte)
        and (where.gt is None or value > where.gt)
        and (where.lte is None or value <= where.lte)
        and (where.lt is None or value < where.lt)
    )


class IndexMachine(RuleBasedStateMachine):
    """Any interleaving of writes, seals, merges, snapshots and searches."""

    def __init__(self) -> None:
        super().__init__()
        # Four rows fill the memtable and two segments are the most, so that a few rules seal and merge many times.
        self.patches = [mock.patch.object(writer, "SEAL_ROWS", 4), mock.patch.object(writer, "SEGMENTS_MAX", 2)]
        # Hundreds of snapshots need no disk that survives a power cut; test_snapshot.py leaves fsync alone.
        self.patches.append(mock.patch("os.fsync"))
        for patch in self.patches:
            patch.start()
        self.folder = Path(tempfile.mkdtemp())
        self.snapshots = 0

    def teardown(self) -> None:
        """Undo the patches."""
        for patch in self.patches:
            patch.stop()
        shutil.rmtree(self.folder)

    @initialize(hidden_dim=st.sampled_from([1, 2, 16, 300, 65_536]), k_max=st.sampled_from([1, 3, 4, 8, 64]))
    def create(self, hidden_dim: int, k_max: int) -> None:
        """Start empty."""
        self.index = SparseIndex(hidden_dim, k_max, FIELDS)
        self.documents: dict[str, oracle.Document] = {}

    @rule(data=st.data(), quantised=st.booleans())
    def upsert(self, data: st.DataObject, quantised: bool) -> None:
        """Add and replace documents, as floats or as stored codes."""
        batch = data.draw(batches(self.index.hidden_dim, self.index.k_max))
        count = len(batch.latents)
        names = data.draw(st.permutations(NAMES))[:count]
        records = data.draw(st.lists(st.none() | RECORDS, min_size=count, max_size=count))
        partitions = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        if quantised:
            stored = code.quantise(
                batch.latents, batch.weights, hidden_dim=self.index.hidden_dim, active_max=self.index.k_max
            )
            self.index.upsert_quantised(names, *code.to_ragged(stored), records, partitions)
        else:
            self.index.upsert(names, batch.latents, batch.weights, records, partitions)
        for row, name in enumerate(names):
            stored_code = oracle.stored_code(batch.latents[row], batch.weights[row])
            self.documents[name] = oracle.Document(stored_code, records[row] or {}, partitions[row])

    @rule(names=st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    def delete(self, names: list[str]) -> None:
        """Remove documents, known or not."""
        known = [name for name in names if self.documents.pop(name, None)]
        assert self.index.delete(names) == len(known)

    @rule()
    def reload(self) -> None:
        """Go on with what a snapshot restores."""
        self.snapshots += 1
        self.index.save(self.folder / str(self.snapshots))
        self.index = SparseIndex.load(self.folder / str(self.snapshots))

    @rule(data=st.data(), where=st.none() | FILTERS, partitions=st.none() | st.sets(st.integers(0, 3), max_size=2))
    def search(self, data: st.DataObject, where: Any, partitions: set[int] | None) -> None:
        """Compare every hit with the oracle's."""
        queries: Batch = data.draw(batches(self.index.hidden_dim, 64, count_max=3))
        top_n = data.draw(st.sampled_from([1, 2, 5, 1000]))
        k_query = data.draw(st.integers(1, 256))
        k_docs = data.draw(st.sampled_from(code.levels(self.index.k_max)))
        min_score = data.draw(st.sampled_from([None, -1.0, 0.25, 0.9999, 1.0]))
        found = self.index.search(
            queries.latents,
            queries.weights,
            top_n,
            k_query=k_query,
            k_docs=k_docs,
            where=where,
            min_score=min_score,
            partitions=partitions,
            threads=data.draw(st.sampled_from([1, 1, 1, 3])),
        )

        def allowed(document: oracle.Document) -> bool:
            in_partition = partitions is None or document.partition in partitions
            return in_partition and (where is None or matches(where, document.fields))

        for row, hits in enumerate(found):
            query = oracle.stored_code(queries.latents[row], queries.weights[row])
            floor = -1.0 if min_score is None else min_score
            assert hits == oracle.search(self.documents, query, top_n, k_query, k_docs, floor, allowed)

    @invariant()
    def holds_exactly_the_documents(self) -> None:
        """Documents are neither lost nor doubled, and merges keep up."""
        if hasattr(self, "index"):
            assert self.index.ids() == sorted(self.documents, key=str.encode)
            assert len(self.index) == len(self.documents)
            assert self.index.statistics().segments <= 2


IndexMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(900)  # a failing history is shrunk for minutes, and worth it
class TestIndexMachine(IndexMachine.TestCase):  # type: ignore[name-defined, misc]
    """Any wrong, missing, misordered or resurrected document after any history would show here."""


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    style=st.sampled_from(STYLES),
    hidden_dim=st.sampled_from([16, 200, 4096]),
    k_max=st.sampled_from([1, 4, 8, 16, 32, 64, 128, 256]),
)
def test_every_k_gives_the_truncated_codes(seed: int, style: str, hidden_dim: int, k_max: int) -> None:
    """An answer at a smaller k would not be what re-encoding at that k gives."""
    rng = np.random.default_rng(seed)
    batch, queries = codes(rng, style, 40, hidden_dim, k_max), codes(rng, style, 2, hidden_dim, 256)
    index = SparseIndex(hidden_dim, k_max)
    with mock.patch.object(writer, "SEAL_ROWS", 32):
        names = [str(row) for row in range(40)]
        index.upsert(names[:32], batch.latents[:32], batch.weights[:32])
        index.upsert(names[32:], batch.latents[32:], batch.weights[32:])
    documents = {
        name: oracle.Document(oracle.stored_code(batch.latents[row], batch.weights[row]))
        for row, name in enumerate(names)
    }
    for k in code.levels(k_max):
        found = index.search(queries.latents, queries.weights, 10, k=k)
        for row, hits in enumerate(found):
            query = oracle.stored_code(queries.latents[row], queries.weights[row])
            assert hits == oracle.search(documents, query, 10, k, k)


@pytest.mark.parametrize("k", [4, 16, 64, 256])
@pytest.mark.parametrize("sealed", [True, False])
def test_equal_weights_do_not_overflow(k: int, sealed: bool) -> None:
    """Codes with equal weights have Σŵ² = 2³²: in 32 bits a perfect match would wrap round and vanish."""
    count = writer.SEAL_ROWS if sealed else 3
    index = SparseIndex(256, k)
    latents, weights = np.tile(np.arange(k), (count, 1)), np.ones((count, k), np.float32)
    index.upsert([f"{row:05d}" for row in range(count)], latents, weights)
    assert index.search(latents[:1], weights[:1], 2) == [[("00000", 1.0), ("00001", 1.0)]]


def test_segments_longer_than_a_window() -> None:
    """Documents behind the first 65,536 rows of a segment would be lost or mixed up."""
    rng = np.random.default_rng(0)
    count, hidden_dim = 70_000, 64
    batch = codes(rng, "tied", count, hidden_dim, 3)
    index = SparseIndex(hidden_dim, 3)
    names = [f"{row:05d}" for row in range(count)]
    index.upsert(names, batch.latents, batch.weights)
    index.delete(names[::7])
    documents = {
        name: oracle.Document(oracle.stored_code(batch.latents[row], batch.weights[row]))
        for row, name in enumerate(names)
        if row % 7
    }
    for k_docs in (1, 3):
        hits = index.search(batch.latents[:1], batch.weights[:1], 1000, k_docs=k_docs)[0]
        query = oracle.stored_code(batch.latents[0], batch.weights[0])
        assert hits == oracle.search(documents, query, 1000, k_docs=k_docs)


def test_ties_at_the_last_place_go_to_the_lowest_ids() -> None:
    """Which of many equal documents is returned would depend on the history of the index."""
    count = 3 * writer.SEAL_ROWS
    names = [f"{row * 7919 % count:05d}" for row in range(count)]
    code_of_all = np.tile([[5, 2]], (count, 1)), np.tile(np.array([[2.0, 1.0]], np.float32), (count, 1))
    index = SparseIndex(8, 2)
    for begin in range(0, count, 5_000):
        index.upsert(names[begin : begin + 5_000], *(part[begin : begin + 5_000] for part in code_of_all))
    hits = index.search(code_of_all[0][:1], code_of_all[1][:1], 1000)[0]
    assert [name for name, _ in hits] == [f"{row:05d}" for row in range(1000)]


def test_nothing_is_found_in_an_empty_index_or_by_an_empty_query() -> None:
    """The first search of a new collection, or a code without latents, would fail."""
    index = SparseIndex(8, 4)
    assert index.search(**single([1], [1.0]), top_n=5) == [[]]
    index.upsert(["a"], **single([1], [1.0]))
    assert index.search(**single([0], [0.0]), top_n=5) == [[]]
    assert index.search(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.float32), top_n=5) == []


def test_empty_codes_are_counted_but_never_found() -> None:
    """Documents that the model maps to nothing would be lost, or returned with a score of NaN."""
    index = SparseIndex(8, 4)
    index.upsert(["empty"], **single([0, 0], [0.0, 0.0]))
    assert len(index) == 1
    assert index.search(**single([0], [1.0]), top_n=5) == [[]]
