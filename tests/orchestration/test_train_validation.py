"""Held-out questions while training, and when to stop, on real trainings without Ray."""

import numpy as np
import pytest

from csr_model import Training
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluate import evaluate
from orchestration.train_files import training_rows
from orchestration.train_validation import BestEpoch, Questions
from orchestration.validation_set import held_out_rows, validation_set
from tests.orchestration.conftest import make_config
from tests.orchestration.training import labelled_set, paired_set


@pytest.mark.parametrize(
    ("make", "quality", "changes"),
    [
        (labelled_set, "one_nn", {"gamma_labels": 0.5}),
        (paired_set, "ndcg", {"gamma_pairs": 0.5}),
        (lambda split, queries: paired_set(split, queries, paired=False), "recall", {}),
    ],
)
def test_the_score_is_what_an_evaluation_of_the_held_out_rows_says(
    split: EmbeddedSplit, held_out: EmbeddedSplit, make: object, quality: str, changes: dict[str, float]
) -> None:
    """A run would stop early, or not, for a number that nothing else in the project agrees with."""
    assert callable(make)
    data = make(split, held_out)
    held = held_out_rows(data)
    rows = training_rows(data)
    learned = rows.without(held)
    training = Training(make_config(epochs=2, **changes), learned.embeddings, learned.labels, learned.pairs)
    training.run_epoch()
    score = Questions.of(rows, held).score(training)
    evaluation = evaluate(training.adapter(), validation_set(data))
    assert score == pytest.approx(
        np.mean([getattr(level.search.hits, quality) for level in evaluation.levels]), abs=0.01
    )
    assert not set(held.queries) & set(held.learned), "the answers were trained on"


def test_patience_counts_epochs_and_the_best_weights_are_kept(split: EmbeddedSplit) -> None:
    """The registered adapter would be that of the epoch in which patience ran out."""
    training = Training(make_config(epochs=9), split.embeddings)
    best = BestEpoch(patience=2)
    fingerprints = []
    for score in (0.5, 0.7, 0.7, 0.6):
        assert not best.exhausted(training)
        training.run_epoch()
        fingerprints.append(training.adapter().fingerprint)
        best.note(score, {"total": 1 - score, "epoch": len(fingerprints) - 1}, training)
    assert best.exhausted(training)
    assert (best.score, best.epoch, best.metrics) == (0.7, 1, {"total": pytest.approx(0.3), "epoch": 1})
    assert best.weights is not None
    training.autoencoder.load_state_dict(best.weights)
    assert training.adapter().fingerprint == fingerprints[1]


def test_without_patience_nothing_stops_and_nothing_is_copied(split: EmbeddedSplit) -> None:
    """A run that only wants the curve would end early, and every checkpoint would carry a second model."""
    training = Training(make_config(epochs=4), split.embeddings)
    best = BestEpoch(patience=None)
    for score in (0.5, 0.1, 0.1):
        training.run_epoch()
        best.note(score, {}, training)
    assert not best.exhausted(training)
    assert best.weights is None
