from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from csr_model import CSRConfig, InvalidTrainingData, fit
from csr_model.batches import Pairs
from csr_model.recipe import candidates, choose
from csr_model.validation import held_out
from tests.csr_model.conftest import clustered

Make = Callable[..., CSRConfig]
SMALL = {"levels": (2, 4), "hidden_dim": 32, "batch_size": 32, "epochs": 4, "map_examples": 600, "k_aux": 4}


@pytest.mark.parametrize(("labelled", "paired"), [(False, False), (True, False), (False, True), (True, True)])
def test_at_most_four_candidates_learn_what_is_there(labelled: bool, paired: bool) -> None:
    """A candidate that needs labels or pairs that are missing would fail hours into a run."""
    options = candidates(16, 1000, labelled, paired, batch_size=64)
    assert 1 <= len(options) <= 4
    assert all(labelled or not config.learns_labels for config in options.values())
    assert all(paired or not config.learns_pairs for config in options.values())
    assert all(config.learns_labels or config.learns_pairs for config in options.values()) == (labelled or paired)
    assert {config.batch_size for config in options.values()} == {64}


def test_the_best_on_held_out_rows_wins() -> None:
    """The choice is by validation score, is recorded, and is the same each time."""
    x, labels = clustered(600)
    choice = choose(x, labels, chosen=SMALL)
    assert choice.scores.keys() == candidates(16, 600, labelled=True).keys()
    assert choice.scores[choice.name] == max(choice.scores.values())
    assert all(0.3 < score <= 1 for score in choice.scores.values())
    assert choice.config == candidates(16, 600, labelled=True, **SMALL)[choice.name]
    again = choose(x, labels, chosen=SMALL)
    assert (again.name, again.scores) == (choice.name, choice.scores)


def test_pairs_are_scored_by_search() -> None:
    """Pairs that can be learned must score far above chance: one document in 300."""
    x, _ = clustered(600)
    documents = x + 0.1 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    pairs = Pairs(np.arange(600), np.arange(600, 1200))
    choice = choose(np.concatenate([x, documents]), None, pairs, chosen=SMALL)
    assert len(choice.scores) == len(candidates(16, 1200, paired=True))
    assert all(0.1 < score <= 1 for score in choice.scores.values())


@pytest.mark.parametrize("rows", [100, 320])
def test_too_few_to_judge_take_the_first(rows: int) -> None:
    """A choice on a handful of held-out rows would be a coin toss that costs time."""
    x, labels = clustered(rows)
    choice = choose(x, labels, chosen=SMALL)
    assert choice.scores == {}
    assert choice.name == next(iter(candidates(16, rows, labelled=True)))


def test_labels_that_only_held_out_rows_tell_apart_take_the_first(caplog: pytest.LogCaptureFixture) -> None:
    """The whole set can be learned; that nine tenths of it cannot must not refuse it."""
    x, _ = clustered(700)
    labels = held_out([str(row) for row in range(700)]).astype(int)
    choice = choose(x, labels, chosen=SMALL)
    assert (choice.name, choice.scores) == ("labels", {})
    assert "no choice: what is not held out cannot be learned from" in caplog.text


def test_a_handful_of_documents_can_be_searched() -> None:
    """Categories as documents are common; ten hits of five documents do not exist."""
    x, labels = clustered(700, clusters=5)
    choice = choose(x, None, Pairs(np.arange(5, 700), labels[5:]), chosen=SMALL)
    assert all(0.3 < score <= 1 for score in choice.scores.values())
    assert len(choice.scores) == 2


def test_a_query_does_not_find_itself() -> None:
    """Pairs in both directions make each query a document, always the nearest; scores would all sink alike."""
    x, _ = clustered(600)
    both = np.concatenate([x, x + 0.01 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)])
    one, other = np.arange(600), np.arange(600, 1200)
    forward = choose(both, None, Pairs(one, other), chosen=SMALL)
    backward = choose(both, None, Pairs(np.r_[one, other], np.r_[other, one]), chosen=SMALL)
    assert min(backward.scores.values()) > 0.9 * min(forward.scores.values())


@pytest.mark.parametrize("pairs", [(np.arange(9),), (np.arange(9),) * 3, np.zeros((9, 2), int)], ids=len)
def test_pairs_have_two_sides(embeddings: np.ndarray, pairs: Any) -> None:
    """[m, 2] is the commonest mistake; taken for 9 sides it would end in a message about zip()."""
    with pytest.raises(InvalidTrainingData, match=r"pairs have \d parts; they must be \(queries, documents\)"):
        fit(embeddings, pairs=pairs)


def test_what_is_given_in_vain_is_said(
    config: Make, embeddings: np.ndarray, labels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration without a weight for labels ignores them; people would blame the labels."""
    fit(embeddings, labels, config=config(epochs=1))
    assert "labels are given, but no gamma_labels nor linear_map" in caplog.text


def test_a_pair_may_be_given_as_embeddings(config: Make, embeddings: np.ndarray) -> None:
    """Text and image sides come as two arrays; they must train like rows of one."""
    rows = fit(embeddings, pairs=(np.arange(80), np.arange(80, 160)), config=config(gamma_pairs=0.5, epochs=1))
    both = np.concatenate([embeddings[:80], embeddings[80:160]])
    apart = fit(embeddings[160:], pairs=(both[:80], both[80:]), config=config(gamma_pairs=0.5, epochs=1))
    joined = np.concatenate([embeddings[160:], both])
    same = fit(joined, pairs=(np.arange(160, 240), np.arange(240, 320)), config=config(gamma_pairs=0.5, epochs=1))
    assert apart.adapter.fingerprint == same.adapter.fingerprint
    assert apart.adapter.fingerprint != rows.adapter.fingerprint


@pytest.mark.parametrize(
    ("queries", "documents", "says"),
    [
        (np.ones((80, 15), np.float32), np.ones((80, 16), np.float32), r"pairs\.queries have shape \(80, 15\)"),
        (np.ones((80, 16), np.float32), np.ones((80, 17), np.float32), r"pairs\.documents have shape \(80, 17\)"),
        (np.arange(80), np.arange(79), "80 queries and 79 documents"),
        (
            np.arange(80) / 2,
            np.arange(80),
            r"pairs\.queries have shape \(80,\) and dtype float64; they must be rows of x as integers",
        ),
        (np.arange(80) + 241, np.arange(80), r"pairs\.queries\[79\] is 320"),
    ],
    ids=["narrow", "wide", "unequal", "halves", "beyond the end"],
)
def test_sides_that_do_not_fit_are_named(
    config: Make, embeddings: np.ndarray, queries: np.ndarray, documents: np.ndarray, says: str
) -> None:
    """Two models of different dimension are the usual mistake; the message must say which side is wrong."""
    with pytest.raises(InvalidTrainingData, match=says):
        fit(embeddings, pairs=(queries, documents), config=config(gamma_pairs=0.5))


def test_embedded_pairs_have_no_labels(config: Make, embeddings: np.ndarray, labels: np.ndarray) -> None:
    """Labels name rows of x; the pairs' embeddings behind them would be taken for unlabelled rows or worse."""
    with pytest.raises(InvalidTrainingData, match=r"pairs\.queries are embeddings, which have no labels"):
        fit(embeddings, labels, pairs=(embeddings[:80], embeddings[80:160]), config=config(gamma_pairs=0.5))


def test_each_row_needs_its_id(embeddings: np.ndarray) -> None:
    """Ids decide what is held out; shifted ones would hold out other rows each time."""
    with pytest.raises(InvalidTrainingData, match="there are 319 ids and 320 rows"):
        fit(embeddings, ids=[str(row) for row in range(319)])
