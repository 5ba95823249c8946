"""Explanations of scores."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.index.core import code, errors, writer
from services.index.core.index import SparseIndex
from tests.services.index.core import oracle
from tests.services.index.core.data import STYLES, codes, single, split

TWO = single([1, 2], [4.0, 3.0])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    style=st.sampled_from(STYLES),
    hidden_dim=st.sampled_from([4, 64, 65_536]),
    k_max=st.sampled_from([1, 4, 32, 128]),
    k_query=st.integers(1, 256),
    level=st.integers(0, 7),
)
def test_the_score_is_that_of_the_search(
    seed: int, style: str, hidden_dim: int, k_max: int, k_query: int, level: int
) -> None:
    """An explanation would explain another score than the one that people see."""
    documents, query = split(codes(np.random.default_rng(seed), style, 41, hidden_dim, k_max), 1)
    names = [f"{row}" for row in range(40)]
    index = SparseIndex(hidden_dim, k_max)
    with mock.patch.object(writer, "SEAL_ROWS", 16):
        for rows in (slice(0, 16), slice(16, 34), slice(34, 40)):
            index.upsert(names[rows], documents[rows].latents, documents[rows].weights)
    levels = code.levels(k_max)
    options = {"k_query": k_query, "k_docs": levels[level % len(levels)]}
    found = dict(index.search(query.latents, query.weights, 1000, **options)[0])
    wanted = dict(oracle.stored_code(query.latents[0], query.weights[0])[:k_query])
    for row, explained in enumerate(index.explain(query.latents, query.weights, names, **options)):
        assert explained is not None
        assert explained.id == names[row]
        assert explained.score == found.get(names[row], 0.0)
        parts = explained.contributions
        assert math.fsum(part.score for part in parts) == pytest.approx(explained.score, rel=1e-14)
        assert list(parts) == sorted(parts, key=lambda part: (-part.score, part.latent))
        prefix = dict(oracle.stored_code(documents.latents[row], documents.weights[row])[: options["k_docs"]])
        assert {part.latent for part in parts} == wanted.keys() & prefix.keys()
        for part in parts:
            assert part.query_weight == pytest.approx(wanted[part.latent] / math.hypot(*wanted.values()))
            assert part.document_weight == pytest.approx(prefix[part.latent] / math.hypot(*prefix.values()))
            assert part.score == pytest.approx(part.query_weight * part.document_weight)


def test_each_shared_latent_has_its_share() -> None:
    """People would be shown numbers that do not mean what is written beside them."""
    index = SparseIndex(8, 2)
    index.upsert(["a"], **single([2, 5], [4.0, 3.0]))
    (explained,) = index.explain(**TWO, ids=["a"])
    assert explained is not None
    (part,) = explained.contributions
    assert part.latent == 2
    assert (part.query_weight, part.document_weight) == (pytest.approx(0.6, 1e-4), pytest.approx(0.8, 1e-4))
    assert part.score == explained.score == pytest.approx(0.48, 1e-4)


@pytest.mark.parametrize("seal_rows", [1, 2, 100])
def test_documents_are_explained_as_they_are_now(seal_rows: int) -> None:
    """A replaced or deleted document would be explained by its old code, from wherever that is still stored."""
    with mock.patch.object(writer, "SEAL_ROWS", seal_rows):
        index = SparseIndex(8, 2)
        index.upsert(["kept", "gone", "changed"], np.array([[1], [1], [1]]), np.ones((3, 1), np.float32))
        before = index.state
        index.delete(["gone"])
        index.upsert(["changed"], **single([7], [1.0]))
    kept, gone, changed, never = index.explain(**TWO, ids=["kept", "gone", "changed", "never"])
    assert gone is never is None
    assert (kept and kept.score) == index.search(**TWO, top_n=1)[0][0][1]
    assert changed is not None
    assert (changed.score, changed.contributions) == (0.0, ())
    was = index.explain(**TWO, ids=["changed", "gone"], at=before)
    assert [each and each.score for each in was] == [kept and kept.score] * 2


def test_nothing_to_explain() -> None:
    """An empty code or an empty index would end in a division by zero."""
    index = SparseIndex(8, 2)
    assert index.explain(**TWO, ids=["a"]) == [None]
    assert index.explain(**TWO, ids=[]) == []
    index.upsert(["empty"], **single([0], [0.0]))
    index.upsert(["a"], **TWO)
    for query, name in ((TWO, "empty"), (single([0], [0.0]), "a"), (single([0], [0.0]), "empty")):
        (explained,) = index.explain(**query, ids=[name])
        assert explained is not None
        assert (explained.score, explained.contributions) == (0.0, ())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": ["a", "a"]}, errors.InvalidId, "ids must differ within a batch; 'a' is given 2 times"),
        ({"ids": [""]}, errors.InvalidId, r"ids\[0\] must have 1\.\.128 bytes"),
        ({"k_docs": 3}, errors.InvalidSearch, "k_docs must be a level, one of 1, 2, 4, not 3"),
        ({"k_query": 257}, errors.InvalidSearch, r"k_query must be 1\.\.256, not 257"),
        ({"k": 2, "k_docs": 2}, errors.InvalidSearch, "k sets k_query and k_docs both"),
        (single([8], [1.0]), errors.InvalidCode, r"latents of row 0 must lie in 0\.\.7"),
        (
            {"latents": [[1], [2]], "weights": np.ones((2, 1))},
            errors.InvalidCode,
            "must hold one query to explain, not 2",
        ),
        (
            {"latents": np.zeros((0, 1), int), "weights": np.ones((0, 1))},
            errors.InvalidCode,
            "one query to explain, not 0",
        ),
    ],
)
def test_impossible_questions(arguments: dict[str, object], error: type[errors.CoreError], message: str) -> None:
    """Something other than what was asked would be explained."""
    index = SparseIndex(8, 4)
    index.upsert(["a"], **TWO)
    with pytest.raises(error, match=message):
        index.explain(**{"ids": ["a"], **TWO, **arguments})
