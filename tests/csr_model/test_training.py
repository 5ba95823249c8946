import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from csr_model import (
    CSRConfig,
    InvalidConfig,
    InvalidTrainingData,
    InvalidVector,
    ResumeMismatch,
    Training,
    TrainingDiverged,
)
from csr_model.batches import Pairs
from csr_model.train_step import StepResult

Make = Callable[..., CSRConfig]


def through_a_file(state: dict[str, Any]) -> Any:
    """Store and read a state the way a checkpoint does, without unpickling code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def finished(training: Training) -> Training:
    """Run all remaining epochs."""
    while not training.done:
        training.run_epoch()
    return training


def alike_pairs(labels: np.ndarray) -> Pairs:
    """Pair each row of the first half with one of its label in the second, each in turn."""
    places = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    later = {label: rows[rows >= 160] for label, rows in places.items()}
    documents = [
        later[label][np.searchsorted(places[label], row) % len(later[label])] for row, label in enumerate(labels[:160])
    ]
    return Pairs(np.arange(160), np.array(documents))


def assert_same_weights(one: Training, other: Training) -> None:
    """Compare bit for bit."""
    for name, tensor in one.autoencoder.state_dict().items():
        assert torch.equal(tensor, other.autoencoder.state_dict()[name]), name


OBJECTIVES: dict[str, dict[str, Any]] = {
    "reconstruction": {"dead_after_rows": 40},
    "labels": {"gamma_labels": 0.3, "dead_after_rows": 100},
    "pairs": {"gamma_pairs": 0.3},
    "two stages, pairs": {"gamma_pairs": 0.3, "linear_map": "pairs", "map_examples": 400},
    "two stages, labels": {"linear_map": "labels", "map_examples": 400},
    "neighbours": {"gamma_neighbours": 0.5},
    "annealing": {"gamma_labels": 0.3, "anneal_from": 16},
    "everything": {"gamma_labels": 0.3, "gamma_pairs": 0.3, "gamma_neighbours": 0.5, "anneal_from": 16},
    "bfloat16": {"gamma_labels": 0.3, "precision": "bfloat16"},
    "dropout": {"gamma_labels": 0.3, "input_dropout": 0.2},
    "paper": {
        "mode": "paper",
        "levels": (8,),
        "gamma_self": 1.0,
        "dead_after_rows": 100,
        "gradient_clip": None,
        "resample": False,
    },
}


@pytest.fixture(params=OBJECTIVES)
def start(
    request: pytest.FixtureRequest, config: Make, embeddings: np.ndarray, labels: np.ndarray
) -> Callable[[], Training]:
    """Return a function that makes the same training each time, one for each objective."""
    settings, pairs = config(**OBJECTIVES[request.param]), alike_pairs(labels)
    return lambda: Training(settings, embeddings, labels, pairs)


def test_resumed_equals_uninterrupted(start: Callable[[], Training]) -> None:
    """A killed worker must not change the model: resumed weights, counters and history are bit-equal."""
    whole, first, second = finished(start()), start(), start()
    first.run_epoch()
    first.run_epoch()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.epoch == 2
    assert_same_weights(whole, finished(second))
    assert second.history == whole.history
    assert second.resampled == whole.resampled
    assert second.adapter().fingerprint == whole.adapter().fingerprint
    torch.testing.assert_close(second.state_dict()["dead_latents"], whole.state_dict()["dead_latents"], rtol=0, atol=0)


def test_resumes_inside_an_epoch(start: Callable[[], Training]) -> None:
    """A state taken between two steps must continue with the next batch."""

    def stop(step: int, _: StepResult) -> None:
        if step == 7:
            raise KeyboardInterrupt

    whole, first, second = finished(start()), start(), start()
    first.run_epoch()
    with pytest.raises(KeyboardInterrupt):
        first.run_epoch(stop)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert_same_weights(whole, finished(second))


def test_resumes_before_the_first_step(start: Callable[[], Training]) -> None:
    """A worker killed while it prepared must not go on with weights that were never set."""
    second = start()
    second.load_state_dict(through_a_file(start().state_dict()))
    assert_same_weights(finished(start()), finished(second))


def test_every_objective_learns(start: Callable[[], Training]) -> None:
    """Each objective must at least come down on the data it trains on, with finite weights that encode."""
    training = start()
    training.run_epoch()
    batch = training._batch(training._sampler.step(0))
    before = training._loss(batch, None, 1.0).total  # at the final levels, wherever annealing stands
    assert training._loss(batch, None, 1.0).total == before
    finished(training)
    assert training._loss(batch, None, 1.0).total < before
    assert all(bool(parameter.isfinite().all()) for parameter in training.autoencoder.parameters())
    assert (training.adapter().usage > 0).sum() > 24


def test_memory_map_trains_as_memory_does(config: Make, embeddings: np.ndarray, tmp_path: Path) -> None:
    """Data that do not fit are read from a file; that must not change the result."""
    np.save(tmp_path / "x.npy", embeddings)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same_weights(finished(Training(config(), embeddings)), finished(Training(config(), mapped)))


def test_half_precision_embeddings_train(config: Make, embeddings: np.ndarray) -> None:
    """Cached embeddings are stored as fp16."""
    report = Training(config(epochs=1), embeddings.astype(np.float16)).run_epoch()
    assert np.isfinite(report.total)


def test_other_checkpoints_are_refused(config: Make, embeddings: np.ndarray) -> None:
    """Continuing on other data or settings would give a model that no configuration describes."""
    state = Training(config(), embeddings).state_dict()
    with pytest.raises(ResumeMismatch, match="configuration"):
        Training(config(seed=1), embeddings).load_state_dict(state)
    with pytest.raises(ResumeMismatch, match="embeddings"):
        Training(config(), embeddings[::-1].copy()).load_state_dict(state)


def test_history_reports_what_happened(config: Make, embeddings: np.ndarray) -> None:
    """Progress bars and MLflow show these numbers."""
    training = finished(Training(config(), embeddings))
    assert [report.epoch for report in training.history] == [0, 1, 2, 3]
    assert [report.step for report in training.history] == [5, 10, 15, 20]
    assert training.history[-1].reconstruction < training.history[0].reconstruction
    assert training.history[0].total == pytest.approx(training.history[0].reconstruction)
    assert 0 < training.history[-1].learning_rate < config().learning_rate
    assert 0 <= training.history[-1].dead_share <= 1


NAN_LABELS = np.where(np.arange(320) == 7, np.nan, np.arange(320) % 5)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "learns labels but they are missing"),
        (np.zeros(320), "all 320 labels are equal"),
        (np.arange(320), "all 320 labels are different"),
        (np.zeros(319), r"labels have shape \(319,\); they must be \[320\]"),
        (np.zeros((320, 1)), r"labels have shape \(320, 1\); they must be \[320\]"),
        (NAN_LABELS, r"labels\[7\] is nan"),
        (np.array([None, *"abc" * 106, "a"], dtype=object), "labels do not compare with each other"),
        (np.int64(3), r"labels have shape \(\); they must be \[320\]"),
    ],
    ids=["missing", "equal", "different", "too few", "column", "NaN", "mixed", "one number"],
)
@pytest.mark.parametrize("changes", [{"gamma_labels": 1.0}, {"linear_map": "labels"}], ids=str)
def test_unusable_labels_are_an_error(
    config: Make, embeddings: np.ndarray, labels: Any, says: str, changes: dict[str, Any]
) -> None:
    """The published code trains on such labels with a loss of zero and says nothing."""
    with pytest.raises(InvalidTrainingData, match=says):
        Training(config(**changes), embeddings, labels)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"gamma_labels": 1.0, "batch_size": 1}, InvalidTrainingData, "meet 0 times in a batch of 1"),
        ({"gamma_labels": 1.0, "batch_size": 2}, InvalidTrainingData, r"meet 0.0\d+ times in a batch of 2"),
        ({"linear_map": "labels", "batch_size": 2}, InvalidTrainingData, "raise batch_size or leave the labels out"),
        ({"gamma_pairs": 1.0, "batch_size": 4}, InvalidConfig, "batch_size is 4; a quarter of it are pairs"),
        ({"mode": "paper", "levels": (8,), "gamma_self": 1.0, "batch_size": 1}, InvalidConfig, "batch_size is 1"),
    ],
    ids=str,
)
def test_batches_too_small_for_a_contrast_are_refused(
    config: Make, embeddings: np.ndarray, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Such a run would end well, with a contrast of 0 that taught nothing."""
    labels, pairs = np.minimum(np.arange(320), 317), Pairs(np.arange(160), np.arange(160, 320))
    with pytest.raises(error, match=says):
        Training(config(**changes), embeddings, labels, pairs)


@pytest.mark.parametrize("changes", [{"gamma_pairs": 1.0}, {"linear_map": "pairs", "map_examples": 200}], ids=str)
def test_sides_without_any_difference_are_an_error(
    config: Make, embeddings: np.ndarray, changes: dict[str, Any]
) -> None:
    """Where all queries are copies of one row, and all documents of another, there is no negative to learn from."""
    x = np.repeat(embeddings[:2], 160, axis=0)
    training = Training(config(**changes), x, pairs=Pairs(np.arange(160), np.arange(160, 320)))
    with pytest.raises(InvalidTrainingData, match="to contrast"):
        training.run_epoch()


@pytest.mark.parametrize("changes", [{"gamma_pairs": 1.0}, {"linear_map": "pairs", "map_examples": 640}], ids=str)
def test_what_all_rows_share_makes_no_false_negatives(
    config: Make, embeddings: np.ndarray, changes: dict[str, Any]
) -> None:
    """Many backbones' embeddings lie in a narrow cone, where every cosine is above that of a near-copy."""
    training = Training(config(**changes), embeddings + 10, pairs=Pairs(np.arange(160), np.arange(160, 320)))
    training.run_epoch()
    assert training.history[0].contrastive > 0 or changes["linear_map"] == "pairs"


ROWS = np.arange(64)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (None, "learns pairs but they are missing"),
        (Pairs(ROWS, ROWS[:63]), r"pairs have \(64,\) queries and \(63,\) documents"),
        (Pairs(ROWS[:, None], ROWS[:, None]), r"both must be \[m\]"),
        (Pairs(ROWS.astype(float), ROWS + 64), r"pairs.queries have dtype float64; they must be whole row numbers"),
        (Pairs(ROWS, ROWS > 3), r"pairs.documents have dtype bool"),
        (Pairs(ROWS, ROWS + 257), r"pairs.documents\[63\] is 320; row numbers must be within 0 … 319"),
        (Pairs(ROWS - 1, ROWS + 64), r"pairs.queries\[0\] is -1"),
        (Pairs(ROWS[:15], ROWS[:15] + 64), "15 pairs do not fill the quarter of a batch of 64"),
        (Pairs(ROWS[:0], ROWS[:0]), "there are 0 pairs; a contrast needs at least two"),
        (Pairs(ROWS, ROWS * 0 + 5), "all 64 pairs have one document, row 5"),
        (Pairs(ROWS * 0 + 5, ROWS), "all 64 pairs have one query, row 5"),
        (Pairs(ROWS, ROWS), "all 64 pairs join rows with themselves"),
    ],
    ids=[
        "missing",
        "unequal",
        "columns",
        "floats",
        "bools",
        "beyond the end",
        "negative",
        "too few",
        "none",
        "one document",
        "one query",
        "with themselves",
    ],
)
@pytest.mark.parametrize("changes", [{"gamma_pairs": 1.0}, {"linear_map": "pairs"}], ids=str)
def test_unusable_pairs_are_an_error(
    config: Make, embeddings: np.ndarray, pairs: Any, says: str, changes: dict[str, Any]
) -> None:
    """A pair that names no row, or no pair at all, must be found before hours of training."""
    with pytest.raises(InvalidTrainingData, match=says):
        Training(config(**changes), embeddings, pairs=pairs)


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "NaN or Inf"), (np.inf, "NaN or Inf"), (0.0, "L2 norm below 1e-12")], ids=str
)
def test_unusable_rows_are_named(config: Make, embeddings: np.ndarray, value: float, says: str) -> None:
    """One bad row among a million must be found by its number, before it turns all weights into NaN."""
    x = embeddings.copy()
    x[217] = value
    with pytest.raises(InvalidVector, match=rf"embeddings\[217\] .*{says}"):
        Training(config(), x)


@pytest.mark.parametrize("normalize", [True, False])
def test_constant_columns_train(config: Make, embeddings: np.ndarray, normalize: bool) -> None:
    """A dimension that never changes is common in real embeddings and must not divide by zero."""
    x = embeddings.copy()
    x[:, 3], x[:, 9] = 0.0, 2.5
    training = finished(Training(config(normalize=normalize, gamma_neighbours=0.5), x))
    assert training.history[-1].reconstruction < training.history[0].reconstruction
    assert all(bool(parameter.isfinite().all()) for parameter in training.autoencoder.parameters())


def test_duplicated_rows_train(config: Make, embeddings: np.ndarray) -> None:
    """Duplicates are everywhere in real data; only a set of nothing but one row is refused."""
    x = np.repeat(embeddings[:20], 16, axis=0)
    training = finished(Training(config(gamma_neighbours=0.5), x))
    assert training.history[-1].reconstruction < training.history[0].reconstruction
    with pytest.raises(InvalidTrainingData, match="all 320 embeddings are alike; there is nothing to learn"):
        Training(config(), np.repeat(embeddings[:1], 320, axis=0))
    with pytest.raises(InvalidTrainingData, match="all 320 embeddings are alike"):
        Training(config(), embeddings[:1] * np.linspace(1, 9, 320, dtype=np.float32)[:, None])


def test_few_documents_of_many_queries_teach(config: Make, embeddings: np.ndarray, labels: np.ndarray) -> None:
    """Copies of a document are no negatives of each other, but the others still are: the contrast learns."""
    first_of_label = {label: row for row, label in reversed(list(enumerate(labels.tolist())))}
    pairs = Pairs(np.arange(320), np.array([first_of_label[label] for label in labels.tolist()]))
    training = finished(Training(config(gamma_pairs=1.0), embeddings, pairs=pairs))
    assert all(report.contrastive > 0 for report in training.history)
    assert training.history[-1].contrastive < training.history[0].contrastive


def test_labels_of_any_kind(config: Make, embeddings: np.ndarray, labels: np.ndarray) -> None:
    """Class names must train like class numbers."""
    names = np.array([f"class {label:02d}" for label in labels])
    by_name = finished(Training(config(gamma_labels=1.0), embeddings, names))
    assert_same_weights(by_name, finished(Training(config(gamma_labels=1.0), embeddings, labels)))


def test_data_and_settings_must_fit(config: Make, embeddings: np.ndarray) -> None:
    """Fewer rows than a batch would train no step at all; a wrong dimension would fail deep inside torch."""
    with pytest.raises(InvalidTrainingData, match="320 rows do not fill a batch of 321"):
        Training(config(batch_size=321), embeddings)
    with pytest.raises(InvalidConfig, match="input_dim is 17"):
        Training(config(input_dim=17), embeddings)
    with pytest.raises(InvalidConfig, match="batch_size is 66; it must be a multiple of 4"):
        Training(config(batch_size=66, gamma_neighbours=1.0), embeddings)
    both = config(batch_size=12, gamma_pairs=1.0, gamma_neighbours=1.0)
    with pytest.raises(InvalidConfig, match="batch_size is 12; it must be a multiple of 8"):
        Training(both, embeddings, pairs=Pairs(np.arange(20), np.arange(20, 40)))


def test_divergence_is_an_error(config: Make, embeddings: np.ndarray) -> None:
    """NaN weights must not be saved, registered and served."""
    training = Training(config(learning_rate=1e38), embeddings)
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        finished(training)
