"""What operators see of an index."""

import math
import tracemalloc

import numpy as np
import pytest

from services.index.core import writer
from services.index.core.columns import KeywordColumn
from services.index.core.index import SparseIndex
from services.index.core.ragged import ragged
from tests.services.index.core.data import codes


def test_counts_follow_writes_and_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dashboards would show documents that are gone, and dead rows would never be noticed."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 10)
    index = SparseIndex(8, 2)
    latents, weights = np.tile([0, 1], (10, 1)), np.tile(np.array([[2.0, 1.0]], np.float32), (10, 1))
    index.upsert([f"sealed-{row}" for row in range(10)], latents, weights)
    index.upsert(["recent", "empty"], np.array([[5, 0], [0, 0]]), np.array([[1, 0], [0, 0]], np.float32))
    index.delete(["sealed-0", "sealed-1"])
    statistics = index.statistics()
    assert (statistics.documents, statistics.dead_rows, statistics.segments, statistics.memtable_rows) == (10, 2, 1, 2)
    assert statistics.latent_usage.tolist() == [8, 8, 0, 0, 0, 1, 0, 0]
    assert statistics.unused_share == 5 / 8
    assert statistics.posting_skew == pytest.approx(0.8**2 + 0.8**2 + 0.1**2)
    shares = [8 / 17, 8 / 17, 1 / 17]
    assert statistics.usage_entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))


def test_segments_with_many_dead_rows_are_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and search time would grow with everything that was ever deleted."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 10)
    index = SparseIndex(8, 1)
    names = [str(row) for row in range(10)]
    index.upsert(names, np.zeros((10, 1), np.int64), np.ones((10, 1), np.float32))
    index.delete(names[:2])
    assert index.statistics().dead_rows == 2
    index.delete(names[2:3])
    index.settle()
    assert (index.statistics().dead_rows, len(index)) == (0, 7)
    index.delete(names)
    assert (index.statistics().segments, len(index)) == (0, 0)


def test_uniform_use_has_no_skew() -> None:
    """The skew that capacity planning relies on would have another scale than documented."""
    index = SparseIndex(16, 4)
    latents = np.array([[(row + 4 * step) % 16 for step in range(4)] for row in range(16)])
    index.upsert([str(row) for row in range(16)], latents, np.ones((16, 4), np.float32))
    statistics = index.statistics()
    assert statistics.posting_skew == pytest.approx(4**2 / 16)
    assert (statistics.usage_entropy, statistics.unused_share) == (pytest.approx(4.0), 0.0)


def test_searches_are_counted_by_kernel_and_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators would look for the reason of slow searches in the wrong kernel, or miss that nothing is skipped."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 130)
    index = SparseIndex(8, 1)
    for segment in range(2):  # of three blocks each, the first of which has the first latent alone
        latents = np.repeat([0, 1], [64, 66])[:, None]
        index.upsert([f"{segment}-{row}" for row in range(130)], latents, np.ones((130, 1), np.float32))
    index.upsert(["recent"], np.array([[0]]), np.ones((1, 1), np.float32))
    queries = np.array([[0]] * 5), np.ones((5, 1), np.float32)
    assert index.statistics().kernels == {"accumulate": 0, "block-max": 0, "direct": 0}
    for searches, kernel in enumerate(("accumulate", "direct", "block-max"), 1):
        assert index.statistics().blocks_visited == 0
        index.search(*queries, 1000, kernel=kernel)
        assert index.statistics().kernels[kernel] == 2 * 5
        assert sum(index.statistics().kernels.values()) == searches * 2 * 5
    assert index.statistics().blocks_visited == 2 * 5
    index.search(*queries, 1000)
    assert sum(index.statistics().kernels.values()) == 4 * 2 * 5


def test_an_empty_index_has_numbers_too() -> None:
    """The first scrape of a new collection would fail or show NaN."""
    statistics = SparseIndex(8, 4).statistics()
    assert (statistics.documents, statistics.segments, statistics.dead_rows) == (0, 0, 0)
    assert (statistics.unused_share, statistics.usage_entropy, statistics.posting_skew) == (1.0, 0.0, 0.0)


def test_bytes_are_those_that_the_documentation_names() -> None:
    """Operators would size machines by a number that leaves part of the memory out."""
    hidden_dim, k_max, count = 1024, 32, 70_000
    index = SparseIndex(hidden_dim, k_max)
    empty = index.statistics().bytes
    batch = codes(np.random.default_rng(0), "clustered", count, hidden_dim, k_max)
    index.upsert([f"{row:08d}" for row in range(count)], batch.latents, batch.weights)
    postings = np.count_nonzero(batch.weights) / count
    derived = index.state.parts[0].segment.derived()
    entries, lines = len(derived["block-rises"]) / count, len(derived["common-lines"])
    levels, windows = 6, 2
    expected = (
        4 * k_max
        + (3 * postings + 4 * hidden_dim * levels * (windows + 1) / count)
        + (3 * entries + 4 * hidden_dim * levels / count)
        + (lines + 2 * hidden_dim * levels / count)
        + (2 * levels + levels / 16)
        + 10.1
    )
    slots = 4 * 2**18 / count
    per_document = (index.statistics().bytes - empty) / count
    assert per_document == pytest.approx(expected + 8 + 8 + slots, abs=0.2)
    assert 8 <= slots <= 16
    assert entries < postings


@pytest.mark.parametrize("count", [0, 2_000, 20_000])
def test_bytes_of_keywords_are_those_of_the_objects_that_hold_them(count: int) -> None:
    """A field with a million terms would take ten times the memory that operators see."""
    tracemalloc.start()
    terms = {f"term-{number:07d}": number for number in range(1_000, 1_000 + count)}
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    column = KeywordColumn(terms, ragged([], np.zeros(0, np.int32)))
    assert column.nbytes - column.numbers.nbytes == pytest.approx(taken, rel=0.02, abs=200)
    assert taken <= count * (105 + 20 + 12) + 200, "documented"
