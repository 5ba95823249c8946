"""The index against brute force: identical ids, scores and order, at every k, with every kernel."""

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

from services.index.core import code, writer
from services.index.core.index import SparseIndex
from services.index.core.where import Eq, Range
from tests.services.index.core.checked import KERNELS, CheckedIndex
from tests.services.index.core.data import STYLES, Batch, codes, single, split

GRID = [(k, dim) for k in (1, 4, 8, 16, 32, 64, 128) for dim in (16, 256, 4096, 65_536) if k <= dim]
"""Every k_max that CSR models use, at every hidden_dim that has as many latents."""
ROWS, QUERIES = 1230, 4


@pytest.fixture
def small_segments() -> Iterator[None]:
    """Let few rows make a segment."""
    with mock.patch.object(writer, "SEAL_ROWS", 128):
        yield


def filled(seed: int, style: str, hidden_dim: int, k_max: int) -> tuple[CheckedIndex, Batch]:
    """Return two segments (of many blocks, and of few) with rows deleted or replaced, a memtable, and queries."""
    rng = np.random.default_rng(seed)
    documents, queries = split(codes(rng, style, ROWS + QUERIES, hidden_dim, k_max), QUERIES)
    names = [str(number) for number in rng.permutation(ROWS)]
    index = CheckedIndex(hidden_dim, k_max, {"rank": "int", "half": "bool"})
    records = [{"rank": row, "half": row % 2 == 0} for row in range(ROWS)]
    partitions = [row % 3 for row in range(ROWS)]
    for begin, end in ((0, 1025), (1025, 1163), (1163, 1200), (1200, ROWS)):
        rows = slice(begin, end)
        index.upsert(names[rows], documents[rows], records[rows], partitions[rows])
    index.delete(names[::9])
    index.upsert(names[1:40:5], documents[40:48], records[40:48], partitions[40:48])
    return index, queries


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("k_max", "hidden_dim"), GRID)
def test_every_k_gives_the_truncated_codes(k_max: int, hidden_dim: int, style: str) -> None:
    """An answer at some k would not be what cutting every code to k and comparing with every document gives."""
    index, queries = filled(k_max * hidden_dim, style, hidden_dim, k_max)
    for level in code.levels(k_max):
        index.check(queries, k=level)
    index.check(queries, top_n=1, k_docs=1)
    index.check(queries, top_n=1000, k_query=k_max // 2 + 1, threads=(8,))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("k_query", [1, 7, 100, 256])
def test_queries_may_be_wider_or_narrower_than_documents(k_query: int, style: str) -> None:
    """Fat queries over thin documents, and thin ones over fat, would miss hits or overflow a sum."""
    index, _ = filled(k_query, style, 1024, 32)
    queries = codes(np.random.default_rng(k_query), style, QUERIES, 1024, 256)
    for k_docs in code.levels(32):
        index.check(queries, k_query=k_query, k_docs=k_docs)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("style", STYLES)
def test_each_query_alone_and_all_together(style: str) -> None:
    """A query would be answered differently in a batch, or with more threads."""
    index, queries = filled(1, style, 256, 16)
    index.check_one_by_one(queries, k_docs=8)
    many = codes(np.random.default_rng(2), style, 19, 256, 40)
    index.check(many, threads=(1, 8))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("style", STYLES)
def test_a_score_that_equals_min_score_is_a_hit(style: str) -> None:
    """The document at the threshold would come and go with the kernel that was chosen."""
    index, queries = filled(2, style, 256, 16)
    for row in range(QUERIES):
        query = queries[row : row + 1]
        (hits,) = index.check(query, top_n=1000)
        for score in {hits[at][1] for at in (0, len(hits) // 2, -1)} if hits else ():
            for kept in index.check(query, top_n=1000, min_score=score):
                assert kept[-1][1] == score
            index.check(query, top_n=5, min_score=score)
            index.check(query, top_n=1000, min_score=float(np.nextafter(score, 2)))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("style", STYLES)
def test_filters_from_nothing_to_everything(style: str) -> None:
    """A selective filter takes another path through the index and would find other documents there."""
    index, queries = filled(3, style, 256, 16)
    for below in (0, 1, 2, 17, 65, 300, 1229, 5000):
        index.check(queries, top_n=20, where=Range("rank", lt=below))
    index.check(queries, where=Eq("half", True), partitions=[0, 2], k=4)
    for partitions in ([], [1], [0, 1, 2], [7]):
        index.check(queries, partitions=partitions)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 129])
def test_top_n_beyond_the_documents(count: int) -> None:
    """Small collections, and segments that end inside a block, would return garbage behind their last document."""
    rng = np.random.default_rng(count)
    documents, queries = split(codes(rng, "uniform", count + QUERIES, 32, 8), QUERIES)
    for seal_rows in (1, 1000):
        with mock.patch.object(writer, "SEAL_ROWS", seal_rows):
            index = CheckedIndex(32, 8)
            index.upsert([f"{row}" for row in range(count)], documents)
            for top_n in (1, count, count + 1, 1000):
                index.check(queries, top_n)


@pytest.mark.parametrize("k", [4, 16, 64, 256])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sealed", [True, False])
def test_equal_weights_do_not_overflow(k: int, kernel: str | None, sealed: bool) -> None:
    """Codes with equal weights have Σŵ² = 2³²: in 32 bits a perfect match would wrap round and vanish."""
    count = writer.SEAL_ROWS if sealed else 3
    index = SparseIndex(256, k)
    latents, weights = np.tile(np.arange(k), (count, 1)), np.ones((count, k), np.float32)
    index.upsert([f"{row:05d}" for row in range(count)], latents, weights)
    found = index.search(latents[:1], weights[:1], 2, kernel=kernel)
    assert found == [[("00000", 1.0), ("00001", 1.0)]]


@pytest.mark.parametrize("kernel", KERNELS)
def test_ties_at_the_last_place_go_to_the_lowest_ids(kernel: str | None) -> None:
    """Which of many equal documents is returned would depend on the history of the index."""
    count = 3 * writer.SEAL_ROWS
    names = [f"{row * 7919 % count:05d}" for row in range(count)]
    code_of_all = np.tile([[5, 2]], (count, 1)), np.tile(np.array([[2.0, 1.0]], np.float32), (count, 1))
    index = SparseIndex(8, 2)
    for begin in range(0, count, 2_500):
        index.upsert(names[begin : begin + 2_500], *(part[begin : begin + 2_500] for part in code_of_all))
    for top_n in (1, 10, 1000):
        hits = index.search(code_of_all[0][:1], code_of_all[1][:1], top_n, kernel=kernel)[0]
        assert hits == [(f"{row:05d}", 1.0) for row in range(top_n)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_found_in_an_empty_index_or_by_an_empty_query(kernel: str | None) -> None:
    """The first search of a new collection, or a code without latents, would fail."""
    index = SparseIndex(8, 4)
    assert index.search(**single([1], [1.0]), top_n=5, kernel=kernel) == [[]]
    index.upsert(["a"], **single([1], [1.0]))
    assert index.search(**single([1], [1.0]), top_n=5, kernel=kernel) == [[("a", 1.0)]]
    assert index.search(**single([0], [0.0]), top_n=5, kernel=kernel) == [[]]
    assert index.search(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.float32), top_n=5, kernel=kernel) == []


@pytest.mark.parametrize("count", [1, 3 * writer.SEAL_ROWS])
@pytest.mark.parametrize("kernel", KERNELS)
def test_empty_codes_are_counted_but_never_found(kernel: str | None, count: int) -> None:
    """Documents that the model maps to nothing would be lost, or returned with a score of NaN."""
    index = SparseIndex(8, 4)
    index.upsert([f"{row}" for row in range(count)], np.zeros((count, 2), np.int64), np.zeros((count, 2), np.float32))
    assert len(index) == count
    assert index.search(**single([0], [1.0]), top_n=5, kernel=kernel) == [[]]
