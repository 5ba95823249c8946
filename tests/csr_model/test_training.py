import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from csr_model import CSRConfig, InvalidConfig, InvalidTrainingData, ResumeMismatch, Training, TrainingDiverged
from csr_model.schedule import learning_rate_factor
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


def assert_same_weights(one: Training, other: Training) -> None:
    """Compare bit for bit."""
    for name, tensor in one.autoencoder.state_dict().items():
        assert torch.equal(tensor, other.autoencoder.state_dict()[name]), name


def test_resumed_equals_uninterrupted(config: Make, embeddings: np.ndarray, labels: np.ndarray) -> None:
    """A killed worker must not change the model: resumed weights, counters and history are bit-equal."""
    settings = config(gamma_labels=0.3, dead_after_rows=100)
    whole = finished(Training(settings, embeddings, labels))
    first = Training(settings, embeddings, labels)
    first.run_epoch()
    first.run_epoch()
    second = Training(settings, embeddings, labels)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.epoch == 2
    assert_same_weights(whole, finished(second))
    assert second.history == whole.history
    assert second.adapter().fingerprint == whole.adapter().fingerprint
    torch.testing.assert_close(second.state_dict()["dead_latents"], whole.state_dict()["dead_latents"], rtol=0, atol=0)


def test_resumes_inside_an_epoch(config: Make, embeddings: np.ndarray) -> None:
    """A state taken between two steps must continue with the next batch."""

    def stop(step: int, _: StepResult) -> None:
        if step == 7:
            raise KeyboardInterrupt

    whole = finished(Training(config(), embeddings))
    first = Training(config(), embeddings)
    first.run_epoch()
    with pytest.raises(KeyboardInterrupt):
        first.run_epoch(stop)
    second = Training(config(), embeddings)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert_same_weights(whole, finished(second))


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


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "learns labels but they are missing"),
        (np.zeros(320), "all 320 labels are equal"),
        (np.arange(320), "all 320 labels are different"),
        (np.zeros(319), r"labels have shape \(319,\); they must be \[320\]"),
    ],
)
def test_unusable_labels_are_an_error(config: Make, embeddings: np.ndarray, labels: Any, says: str) -> None:
    """The published code trains on such labels with a loss of zero and says nothing."""
    with pytest.raises(InvalidTrainingData, match=says):
        Training(config(gamma_labels=1.0), embeddings, labels)


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


def test_divergence_is_an_error(config: Make, embeddings: np.ndarray) -> None:
    """NaN weights must not be saved, registered and served."""
    training = Training(config(learning_rate=1e38), embeddings)
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        finished(training)


def test_learning_rate_rises_then_falls() -> None:
    """Without warm-up Adam's first steps are too large; without decay the last ones are noise."""
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:80] == [1.0] * 75
    assert factors[99] == pytest.approx(0.05)
    assert factors[80:] == sorted(factors[80:], reverse=True)
