"""The index against the oracle after any interleaving of writes, seals, merges, snapshots and searches."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.index.core import code, writer
from services.index.core.index import SparseIndex
from tests.services.index.core import oracle
from tests.services.index.core.checked import KERNELS
from tests.services.index.core.data import Batch, batches, held
from tests.services.index.core.filters import FIELDS, FILTERS, RECORDS, matches

NAMES = ["a", "b", "B", "ä", "a\x00", "aa", "日本", "z" * 128, *(f"doc-{i}" for i in range(22))]


class IndexMachine(RuleBasedStateMachine):
    """Documents on both sides; the oracle is the plain one."""

    def __init__(self) -> None:
        super().__init__()
        # Four rows fill the memtable and two segments are the most, so that a few rules seal and merge many times.
        small = {"SEAL_ROWS": 4, "ROOM_MIN": 1, "SEGMENTS_MAX": 2}
        self.patches = [mock.patch.object(writer, name, value) for name, value in small.items()]
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

    @initialize(
        hidden_dim=st.sampled_from([1, 2, 16, 256, 4096, 65_536]), k_max=st.sampled_from([1, 3, 4, 8, 16, 32, 64, 128])
    )
    def create(self, hidden_dim: int, k_max: int) -> None:
        """Start empty."""
        self.index = SparseIndex(hidden_dim, k_max, FIELDS)
        self.documents: dict[str, oracle.Document] = {}

    @rule(data=st.data(), quantised=st.booleans())
    def upsert(self, data: st.DataObject, quantised: bool) -> None:
        """Add and replace documents, as floats or as stored codes."""
        batch = data.draw(batches(self.index.hidden_dim, self.index.k_max))
        count = len(batch)
        names = data.draw(st.permutations(NAMES))[:count]
        records = data.draw(st.lists(st.none() | RECORDS, min_size=count, max_size=count))
        partitions = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        versions = data.draw(st.lists(st.sampled_from([0, 1, (1 << 63) - 1]), min_size=count, max_size=count))
        if quantised:
            stored = code.quantise(
                batch.latents, batch.weights, hidden_dim=self.index.hidden_dim, active_max=self.index.k_max
            )
            self.index.upsert_quantised(names, *code.to_ragged(stored), records, partitions, versions)
        else:
            self.index.upsert(names, batch.latents, batch.weights, records, partitions, versions)
        for row, name in enumerate(names):
            stored_code = oracle.stored_code(batch.latents[row], batch.weights[row])
            self.documents[name] = oracle.Document(stored_code, records[row] or {}, partitions[row], versions[row])

    @rule(names=st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    def delete(self, names: list[str]) -> None:
        """Remove documents, known or not."""
        known = [name for name in names if self.documents.pop(name, None)]
        assert self.index.delete(names) == len(known)

    @rule(partitions=st.sets(st.integers(0, 3), max_size=2))
    def drop_partitions(self, partitions: set[int]) -> None:
        """Remove whole partitions, known or not."""
        gone = [name for name, document in self.documents.items() if document.partition in partitions]
        assert self.index.drop_partitions(partitions) == len(gone)
        for name in gone:
            del self.documents[name]

    @rule()
    def reload(self) -> None:
        """Go on with what a snapshot restores."""
        self.snapshots += 1
        self.index.save(self.folder / str(self.snapshots))
        self.index = SparseIndex.load(self.folder / str(self.snapshots))

    @rule()
    def settle(self) -> None:
        """Go on when all merges are done; otherwise they run beside the other rules."""
        self.index.settle()
        assert self.index.statistics().segments <= 2

    @rule(data=st.data(), where=st.none() | FILTERS, partitions=st.none() | st.sets(st.integers(0, 3), max_size=2))
    def search(self, data: st.DataObject, where: Any, partitions: set[int] | None) -> None:
        """Compare every hit of every kernel with the oracle's."""
        queries: Batch = data.draw(batches(self.index.hidden_dim, 256, count_max=3))
        top_n = data.draw(st.sampled_from([1, 2, 5, 1000]))
        k_query = data.draw(st.integers(1, 256))
        k_docs = data.draw(st.sampled_from(code.levels(self.index.k_max)))
        min_score = data.draw(st.sampled_from([None, -1.0, 0.25, 0.9999, 1.0]))

        def allowed(document: oracle.Document) -> bool:
            in_partition = partitions is None or document.partition in partitions
            return in_partition and (where is None or matches(where, document.fields))

        floor = -1.0 if min_score is None else min_score
        expected = [
            oracle.search(self.documents, oracle.stored_code(latents, weights), top_n, k_query, k_docs, floor, allowed)
            for latents, weights in zip(queries.latents, queries.weights, strict=True)
        ]
        for kernel in KERNELS:
            found = self.index.search(
                queries.latents,
                queries.weights,
                top_n,
                k_query=k_query,
                k_docs=k_docs,
                where=where,
                min_score=min_score,
                partitions=partitions,
                threads=data.draw(st.sampled_from([1, 1, 1, 8])),
                kernel=kernel,
            )
            assert found == expected, kernel

    @rule(after=st.none() | st.sampled_from(NAMES), limit=st.integers(1, 30), where=st.none() | FILTERS)
    def scan(self, after: str | None, limit: int, where: Any) -> None:
        """Compare a page, and a count, with the sorted documents."""
        names = sorted(self.documents, key=str.encode)
        names = [name for name in names if where is None or matches(where, self.documents[name].fields)]
        assert self.index.count(where) == len(names)
        names = [name for name in names if after is None or name.encode() > after.encode()]
        assert [document.id for document in self.index.scan(limit, after, where)] == names[:limit]

    @invariant()
    def holds_exactly_the_documents(self) -> None:
        """Documents are neither lost nor doubled."""
        if hasattr(self, "index"):
            assert self.index.ids() == sorted(self.documents, key=str.encode)
            assert len(self.index) == len(self.documents)
            expected = {name: (document.version, document.partition) for name, document in self.documents.items()}
            assert held(self.index) == expected


IndexMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(900)  # a failing history is shrunk for minutes, and worth it
class TestIndexMachine(IndexMachine.TestCase):  # type: ignore[name-defined, misc]
    """Any wrong, missing, misordered or resurrected document after any history would show here."""
