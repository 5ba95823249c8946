from collections.abc import Callable

import numpy as np
import pytest

import csr_model
from csr_model import CSRAdapter, CSRConfig, InvalidTrainingData, fit, metrics
from tests.csr_model.conftest import clustered

Make = Callable[..., CSRConfig]


def accuracy(adapter: CSRAdapter, k: int) -> float:
    """Return the 1-NN accuracy of held-out rows."""
    x, y = clustered(320)
    queries, query_labels = clustered(200, seed=1)
    found = metrics.sparse_neighbours(adapter.encode(x, k), adapter.encode(queries, k), adapter.hidden_dim, 1)
    return metrics.one_nn_accuracy(found, y, query_labels)


def test_codes_keep_the_neighbours(embeddings: np.ndarray, labels: np.ndarray) -> None:
    """The product's promise in small: without labels, few latents find nearly what the dense vectors find."""
    queries, query_labels = clustered(200, seed=1)
    dense = metrics.one_nn_accuracy(metrics.dense_neighbours(embeddings, queries, 1), labels, query_labels)
    settings = CSRConfig.automatic(16, 320, levels=(2, 4, 8), hidden_dim=64, epochs=40, dead_after_rows=2000)
    adapter = fit(embeddings, config=settings).adapter
    assert dense > 0.9
    assert accuracy(adapter, 4) > 0.95 * dense
    assert accuracy(adapter, 8) > 0.97 * dense
    usage = metrics.usage_histogram(adapter.encode(queries, 8), adapter.hidden_dim)
    assert metrics.unused_share(usage) < 0.05


def test_labels_help() -> None:
    """Where most variance has nothing to do with the classes, labels must tell the codes what to keep."""

    def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        classes = random.integers(4, size=count)
        x = random.normal(size=(count, 16))
        x[:, :4] += 2.5 * np.eye(4)[classes]
        return x.astype(np.float32), classes

    (x, classes), (queries, query_classes) = rows(640, 0), rows(300, 1)

    def held_out(gamma: float) -> float:
        settings = CSRConfig.automatic(
            16, 640, levels=(2, 4, 8), hidden_dim=48, batch_size=64, epochs=20, gamma_labels=gamma
        )
        adapter = fit(x, classes, config=settings).adapter
        found = metrics.sparse_neighbours(adapter.encode(x, 2), adapter.encode(queries, 2), 48, 1)
        return metrics.one_nn_accuracy(found, classes, query_classes)

    assert held_out(gamma=3.0) > held_out(gamma=0.0) + 0.05


def test_defaults_train(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit(x)` with nothing else must work and be repeatable."""
    monkeypatch.setattr("csr_model.config._ROWS_TO_SEE", 1000)
    result = fit(embeddings)
    assert len(result.history) == 3
    assert result.adapter.levels == (4, 8, 16, 32, 64)
    assert fit(embeddings).adapter.fingerprint == result.adapter.fingerprint


def test_progress_is_reported_each_epoch(config: Make, embeddings: np.ndarray) -> None:
    """A progress bar needs each epoch as it ends."""
    seen: list[int] = []
    fit(embeddings, config=config(), on_epoch=lambda report: seen.append(report.epoch))
    assert seen == [0, 1, 2, 3]


def test_wrong_shapes_are_named() -> None:
    """A list of numbers or a single vector must give a typed error."""
    with pytest.raises(InvalidTrainingData, match=r"they must be \[n, d\]"):
        fit(np.ones(5, np.float32))


def test_exported_names() -> None:
    """The public names are a contract; removing one breaks services and users."""
    assert sorted(csr_model.__all__) == sorted(name for name in vars(csr_model) if name in csr_model.__all__)
    assert {"CSRAdapter", "CSRConfig", "Codes", "InvalidVector", "Training", "fit"} <= set(csr_model.__all__)
