"""What training is judged on: ids decide, nothing is lost, nothing leaks."""

from dataclasses import replace

import numpy as np
import pytest

from csr_model.validation import held_out
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit, data_digest
from orchestration.validation_set import NEIGHBOUR_QUERIES, rows_of, validation_set
from services.runtime.errors import InvalidRequest
from tests.orchestration.conftest import make_split


@pytest.fixture(scope="module")
def test_queries() -> EmbeddedSplit:
    """Queries of the test split, which must never show up."""
    return make_split(30, seed=8)


def retrieval_set(documents: int, queries: int, test_queries: EmbeddedSplit) -> EmbeddedSet:
    """Return a set whose first training rows are documents, then queries, each with a pair of its own."""
    train = replace(make_split(documents + queries, seed=5), labels=None)
    pairs = np.array([(documents + query, query % documents) for query in range(queries)], np.int64)
    searched = rows_of(train, np.arange(documents))
    relevant = np.array([(query, query) for query in range(30)], np.int64)
    return EmbeddedSet("retrieval", train, pairs, searched, replace(test_queries, labels=None), relevant)


def test_labelled_rows_are_held_out_by_id(split: EmbeddedSplit, test_queries: EmbeddedSplit) -> None:
    """Recipes would be chosen on rows that were trained on, or on the test split."""
    made = validation_set(EmbeddedSet("letters", split, None, split, test_queries, None))
    mask = held_out(split.ids)
    assert made.queries.ids == [name for name, held in zip(split.ids, mask, strict=True) if held]
    assert made.train is made.documents
    assert made.train.ids == [name for name, held in zip(split.ids, mask, strict=True) if not held]
    assert len(made.queries.ids) in range(16, 49)  # of 320
    assert split.labels is not None
    np.testing.assert_array_equal(made.queries.labels, split.labels[mask])
    np.testing.assert_array_equal(made.queries.embeddings, split.embeddings[mask])
    assert made.queries.texts == [text for text, held in zip(split.texts, mask, strict=True) if held]
    assert made.train.digest == data_digest(made.train.ids, made.train.embeddings, made.train.labels)
    assert (made.name, made.pairs, made.relevant) == ("letters-validation", None, None)


def test_pairs_of_held_out_queries_judge_and_nothing_else_is_missing(test_queries: EmbeddedSplit) -> None:
    """Pairs would point to other rows than they did, or the answer would have been trained on."""
    data = retrieval_set(60, 200, test_queries)
    made = validation_set(data)
    assert data.pairs is not None
    assert made.pairs is not None
    assert made.relevant is not None
    by_id = {(data.train.ids[query], data.train.ids[row]) for query, row in data.pairs}
    trained = {(made.train.ids[query], made.train.ids[row]) for query, row in made.pairs}
    asked = {(made.queries.ids[query], made.documents.ids[row]) for query, row in made.relevant}
    assert trained | asked == by_id
    assert not trained & asked
    assert not set(made.queries.ids) & set(made.train.ids)
    assert set(made.queries.ids) | set(made.train.ids) == set(data.train.ids)
    assert made.documents.ids == data.documents.ids
    assert held_out(made.queries.ids).all()
    assert not held_out([query for query, _ in trained]).any()


def test_a_held_out_query_that_is_a_document_elsewhere_stays_searchable(test_queries: EmbeddedSplit) -> None:
    """Sets whose rows are both queries and documents would lose pairs or crash."""
    data = retrieval_set(60, 200, test_queries)
    assert data.pairs is not None
    turned = replace(data, pairs=np.concatenate([data.pairs, data.pairs[:, ::-1]]))
    made = validation_set(turned)
    assert made.pairs is not None
    assert made.relevant is not None
    assert len(made.pairs) + len(made.relevant) == 400
    assert made.pairs.max() < len(made.train.ids)


def test_without_labels_and_pairs_at_most_500_rows_ask(test_queries: EmbeddedSplit) -> None:
    """Validation of a large set would take longer than its training."""
    plain = replace(make_split(7_000, seed=6), labels=None)
    made = validation_set(EmbeddedSet("plain", plain, None, plain, test_queries, np.zeros((1, 2), np.int64)))
    assert len(made.queries.ids) == NEIGHBOUR_QUERIES
    assert made.relevant is None
    assert len(made.documents.ids) == (~held_out(plain.ids)).sum()
    assert not set(made.queries.ids) & set(made.documents.ids)


def test_labels_come_first_where_labels_judge(split: EmbeddedSplit, test_queries: EmbeddedSplit) -> None:
    """A set of labelled pairs would be validated by another measure than it is tested by."""
    pairs = np.array([(row, row + 1) for row in range(0, 300, 2)], np.int64)
    data = EmbeddedSet("both", split, pairs, split, test_queries, None)
    assert validation_set(data).relevant is None
    assert validation_set(replace(data, relevant=np.array([[0, 0]]))).relevant is not None


def test_too_few_rows_are_refused(split: EmbeddedSplit, test_queries: EmbeddedSplit) -> None:
    """Training would be judged by no query at all, as not a number."""
    few = rows_of(split, np.flatnonzero(~held_out(split.ids))[:5])
    with pytest.raises(InvalidRequest, match="of 5 training rows, 0 are held out and 5 left"):
        validation_set(EmbeddedSet("few", few, None, few, test_queries, None))
