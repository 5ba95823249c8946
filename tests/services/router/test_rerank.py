import math

import numpy as np
import pytest

from services.router.merge import Scored
from services.router.rerank import rerank


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    """Embeddings of 40 documents by id."""
    rows = np.random.default_rng(3).normal(size=(40, 24)).astype(np.float16)
    return {f"d{number}": row for number, row in enumerate(rows)}


@pytest.fixture
def query() -> np.ndarray:
    """One query embedding."""
    return np.random.default_rng(4).normal(size=24).astype(np.float32)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Plain Python on float64, summed without error."""
    dot = math.fsum(float(a) * float(b) for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(math.fsum(float(a) ** 2 for a in left) * math.fsum(float(b) ** 2 for b in right))


def test_scores_are_exact_cosines_in_order(stored: dict[str, np.ndarray], query: np.ndarray) -> None:
    """Re-ranked hits would come in an order that the embeddings do not justify."""
    hits = rerank(query, list(stored), stored, top_n=10)
    expected = sorted(((cosine(row, query), id) for id, row in stored.items()), key=lambda pair: (-pair[0], pair[1]))
    assert [hit.id for hit in hits] == [id for _, id in expected[:10]]
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:10]], abs=1e-14)


def test_a_score_does_not_depend_on_other_candidates(stored: dict[str, np.ndarray], query: np.ndarray) -> None:
    """The same document would score differently, bit for bit, in a larger batch."""
    together = {hit.id: hit.score for hit in rerank(query, list(stored), stored, top_n=40)}
    alone = {id: rerank(query, [id], stored, top_n=1)[0].score for id in stored}
    assert together == alone


def test_an_equal_embedding_scores_one(stored: dict[str, np.ndarray]) -> None:
    """A document searched by its own embedding would miss min_score=1."""
    for id, row in stored.items():
        assert rerank(row.astype(np.float32), [id], stored, 1, min_score=1.0) == [Scored(id, 1.0)]


def test_ties_are_ordered_by_id() -> None:
    """Equal documents would come in another order on every call."""
    stored = {id: np.array([1, 2], np.float16) for id in ("c", "a", "b")}
    assert [hit.id for hit in rerank(np.array([1, 0], np.float32), ["c", "b", "a"], stored, 3)] == ["a", "b", "c"]


def test_deleted_candidates_drop_out(stored: dict[str, np.ndarray], query: np.ndarray) -> None:
    """A document deleted between index and store would break the search."""
    assert [hit.id for hit in rerank(query, ["gone", "d1"], stored, 5)] == ["d1"]
    assert rerank(query, ["gone"], stored, 5) == []


def test_min_score_is_about_the_cosine(stored: dict[str, np.ndarray], query: np.ndarray) -> None:
    """Hits below the threshold that the caller set would be returned."""
    everything = rerank(query, list(stored), stored, 40)
    threshold = everything[6].score
    assert rerank(query, list(stored), stored, 40, threshold) == everything[:7]
