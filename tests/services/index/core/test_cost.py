"""What searches are estimated to take, against counting what they touch."""

import numpy as np
import pytest

from services.index.core import planner, writer
from services.index.core.index import SparseIndex
from tests.services.index.core.data import Batch, codes, single, split


def touched(documents: Batch, query: Batch, k_query: int, k_docs: int) -> float:
    """Return the nanoseconds of one query on one segment, from the documents' latents."""
    count, taken = len(documents), len(documents) * planner._NS_SUM
    for rank in range(min(k_query, query.latents.shape[1])):
        if query.weights[0, rank] > 0:
            shown = (documents.latents[:, :k_docs] == query.latents[0, rank]) & (documents.weights[:, :k_docs] > 0)
            postings = np.count_nonzero(shown)
            taken += planner._NS_RUN * -(-count // 65_536)
            taken += count * planner._NS_LINE if 4 * postings > count else postings * planner._NS_POSTING
    return taken


@pytest.mark.parametrize(("k_query", "k_docs"), [(1, 8), (3, 1), (8, 4), (256, 8)])
def test_a_cost_is_what_accumulation_touches(monkeypatch: pytest.MonkeyPatch, k_query: int, k_docs: int) -> None:
    """A server would admit a flood of dear searches, or turn cheap ones away."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 500)
    documents, queries = split(codes(np.random.default_rng(0), "skewed", 2_420, 64, 8), 20)
    index, sealed = SparseIndex(64, 8), (documents[:1_500], documents[1_500:2_100])
    for number, segment in enumerate((*sealed, documents[2_100:])):
        index.upsert([f"{number}-{row}" for row in range(len(segment))], segment.latents, segment.weights)
    assert ([len(part.segment) for part in index.state.parts], len(index.state.recent)) == ([1_500, 600], 300)
    found = index.cost(queries.latents, queries.weights, k_query=k_query, k_docs=k_docs)
    fixed = planner._NS_SEARCH + 300 * k_docs * planner._NS_WEIGHT
    expected = [
        fixed + sum(touched(segment, queries[row : row + 1], k_query, k_docs) for segment in sealed)
        for row in range(len(queries))
    ]
    assert found == pytest.approx(expected, abs=1)
    assert len(set(found.tolist())) > 1
    assert index.cost(queries.latents[:0], queries.weights[:0]).tolist() == []


def test_a_cost_is_of_a_moment() -> None:
    """A search of an earlier state would be charged for documents that it does not see."""
    index = SparseIndex(8, 1)
    moment = index.state
    empty = index.cost(**single([1], [1.0]))
    index.upsert([f"{row}" for row in range(5_000)], np.ones((5_000, 1), np.int64), np.ones((5_000, 1), np.float32))
    assert index.cost(**single([1], [1.0]), at=moment) == empty
    assert index.cost(**single([1], [1.0])) > empty > 0
