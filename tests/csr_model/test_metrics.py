import math

import numpy as np
import pytest

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


def test_nmse() -> None:
    """The mean as reconstruction misses all variance; the rows themselves none."""
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert metrics.nmse(x, np.array([[2.0, 5.0], [2.0, 5.0]])) == 1.0
    assert metrics.nmse(x, x) == 0.0


def test_usage() -> None:
    """Padding must not count as use of latent 0; health metrics are computed from these numbers."""
    usage = metrics.usage_histogram(codes([{1: 0.8, 2: 0.6}, {1: 1.0}], 2), 4)
    assert usage.tolist() == [0, 2, 1, 0]
    assert metrics.unused_share(usage) == 0.5
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(4)
    assert metrics.usage_entropy(usage) == pytest.approx(expected)
    assert metrics.posting_skew(usage, rows=2) == 1.0 + 0.25
    assert metrics.usage_entropy(np.zeros(4, int)) == 0.0
