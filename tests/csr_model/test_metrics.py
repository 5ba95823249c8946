import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from csr_model import Codes, metrics


def codes(rows: list[dict[int, float]], k: int) -> Codes[np.ndarray]:
    """Return codes of rows given as {latent: weight}, padded to k."""
    latents, weights = np.zeros((len(rows), k), np.uint16), np.zeros((len(rows), k), np.float32)
    for i, row in enumerate(rows):
        for j, (latent, weight) in enumerate(row.items()):
            latents[i, j], weights[i, j] = latent, weight
    return Codes(latents, weights)


def test_sparse_neighbours_agree_with_dense_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall and accuracy gates rest on this search; chunks must not show, nor different k on both sides."""
    monkeypatch.setattr(metrics, "_QUERIES_PER_CHUNK", 5)
    monkeypatch.setattr(metrics, "_DOCUMENTS_PER_CHUNK", 11)
    random = np.random.default_rng(0)

    def some(n: int, k: int) -> tuple[Codes[np.ndarray], np.ndarray]:
        latents = np.stack([random.permutation(20)[:k] for _ in range(n)]).astype(np.uint16)
        weights = random.random((n, k)).astype(np.float32)
        dense = np.zeros((n, 20), np.float32)
        np.put_along_axis(dense, latents.astype(int), weights, axis=1)
        return Codes(latents, weights), dense

    (documents, dense_documents), (queries, dense_queries) = some(37, 3), some(13, 6)
    expected = np.argsort(-(dense_queries @ dense_documents.T), axis=1)[:, :4]
    np.testing.assert_array_equal(metrics.sparse_neighbours(documents, queries, 20, 4), expected)


def test_dense_neighbours_use_the_angle() -> None:
    """Long embeddings must not win by length."""
    documents = np.array([[100.0, 100.0], [1.0, 0.1]])
    assert metrics.dense_neighbours(documents, np.array([[3.0, 0.0]]), 2).tolist() == [[1, 0]]


def test_recall_and_accuracy() -> None:
    """Known shares: 3 of 4 expected neighbours found; 1 of 2 first neighbours with the right label."""
    found, expected = np.array([[1, 2, 9], [4, 5, 6]]), np.array([[2, 1], [6, 7]])
    assert metrics.recall(found, expected) == 0.75
    assert metrics.one_nn_accuracy(np.array([[0], [1]]), np.array(["a", "b"]), np.array(["a", "a"])) == 0.5


def test_a_ranking_without_hits_scores_nothing() -> None:
    """A query that finds nothing must not borrow the last document's label or count as a neighbour found."""
    nothing = np.array([[-1, -1]])
    assert metrics.one_nn_hits(nothing, np.array(["a"]), np.array(["a"])).tolist() == [0.0]
    assert metrics.recalls(nothing, np.array([[0]])).tolist() == [0.0]
    assert metrics.ndcgs(nothing, np.array([[0, 0]]), 2).tolist() == [0.0]
    assert metrics.relevant_recalls(nothing, np.array([[0, 0]]), 2).tolist() == [0.0]


rankings = st.lists(st.permutations(range(6)), min_size=1, max_size=4)
relevances = st.lists(st.sets(st.integers(0, 8)), min_size=4, max_size=4)


def slow_ndcg(ranking: list[int], relevant: set[int], top_n: int) -> float:
    """Return nDCG as textbooks write it."""
    gain = sum(1 / math.log2(place + 1) for place, row in enumerate(ranking[:top_n], 1) if row in relevant)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(top_n, len(relevant)) + 1))


@given(rankings, relevances, st.integers(1, 8), st.integers(0, 6))
def test_scores_by_relevance_are_those_of_the_textbook(
    found: list[list[int]], relevant: list[set[int]], top_n: int, length: int
) -> None:
    """Every table against other methods would be wrong, as where the ideal comes from the retrieved list."""
    pairs = [(query, row) for query, rows in enumerate(relevant[: len(found)]) for row in rows]
    judged = np.array(pairs + pairs[:1], np.int64).reshape(-1, 2)  # one of them twice, which must not count twice
    rows = np.array([ranking[:length] for ranking in found], np.int64).reshape(len(found), length)
    ndcgs, recalls = metrics.ndcgs(rows, judged, top_n), metrics.relevant_recalls(rows, judged, top_n)
    for query, ranking in enumerate(rows.tolist()):
        if not relevant[query]:
            assert math.isnan(ndcgs[query])
            assert math.isnan(recalls[query])
            continue
        assert ndcgs[query] == pytest.approx(slow_ndcg(ranking, relevant[query], top_n))
        assert recalls[query] == len(relevant[query] & set(ranking[:top_n])) / len(relevant[query])


@given(rankings, st.integers(1, 6), st.integers(0, 6))
def test_recalls_are_shares_of_sets(found: list[list[int]], expected: int, length: int) -> None:
    """Recall against dense neighbours would mix up the rows of different queries."""
    rows = np.array([ranking[:length] for ranking in found], np.int64).reshape(len(found), length)
    nearest = np.array([list(reversed(ranking))[:expected] for ranking in found])
    shares = [len(set(a) & set(b)) / expected for a, b in zip(rows.tolist(), nearest.tolist(), strict=True)]
    assert metrics.recalls(rows, nearest).tolist() == pytest.approx(shares)


def test_usage() -> None:
    """Padding must not count as use of latent 0; health metrics are computed from these numbers."""
    usage = metrics.usage_histogram(codes([{1: 0.8, 2: 0.6}, {1: 1.0}], 2), 4)
    assert usage.tolist() == [0, 2, 1, 0]
    assert metrics.unused_share(usage) == 0.5
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(4)
    assert metrics.usage_entropy(usage) == pytest.approx(expected)
    assert metrics.posting_skew(usage, rows=2) == 1.0 + 0.25
    assert metrics.usage_entropy(np.zeros(4, int)) == 0.0
