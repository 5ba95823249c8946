"""Tiny clustered embeddings and models, the same in every test."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from csr_model import CSRAdapter, CSRConfig, fit
from csr_model.autoencoder import CSRAutoencoder

INPUT_DIM = 16


def clustered(rows: int, seed: int = 0, clusters: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings [rows, 16] float32 around `clusters` fixed directions, and each row's cluster."""
    centres = np.random.default_rng(99).normal(size=(clusters, INPUT_DIM))
    random = np.random.default_rng(seed)
    labels = random.integers(clusters, size=rows)
    return (centres[labels] + 0.35 * random.normal(size=(rows, INPUT_DIM))).astype(np.float32), labels


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads would only wait for each other on models this small, and could change the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def embeddings() -> np.ndarray:
    """Training rows [320, 16]."""
    return clustered(320)[0]


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    """The cluster of each training row."""
    return clustered(320)[1]


@pytest.fixture(scope="session")
def config() -> Callable[..., CSRConfig]:
    """Return a function that makes a small configuration, changed as its arguments say."""

    def make(**changes: Any) -> CSRConfig:
        fields: dict[str, Any] = {
            "input_dim": INPUT_DIM,
            "hidden_dim": 48,
            "levels": (2, 4, 8),
            "k_aux": 6,
            "batch_size": 64,
            "epochs": 4,
            "dead_after_rows": 200,
        }
        return CSRConfig(**(fields | changes))

    return make


def started(config: CSRConfig, rows: np.ndarray, mean: float = 0.0, scale: float = 1.0) -> CSRAutoencoder:
    """Return an autoencoder whose latents are drawn from `rows`, its preprocessing set by hand."""
    model = CSRAutoencoder(config.input_dim, config.hidden_dim, config.decode_ks, config.normalize)
    model.mean.fill_(mean)
    model.scale.fill_(scale)
    model.start_from_rows(torch.from_numpy(rows).float(), config.seed)
    return model


@pytest.fixture
def model(config: Callable[..., CSRConfig], embeddings: np.ndarray) -> CSRAutoencoder:
    """An autoencoder with data-drawn latents and biases that are not zero."""
    model = started(config(), embeddings, mean=0.01, scale=0.9)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.pre_bias.normal_(0, 0.05, generator=random)
        model.latent_bias.normal_(0, 0.05, generator=random)
        model.log_gain.normal_(0, 0.1, generator=random)
    return model


@pytest.fixture(scope="session")
def adapter(config: Callable[..., CSRConfig], embeddings: np.ndarray) -> CSRAdapter:
    """A trained adapter; tests must not change it."""
    return fit(embeddings, config=config()).adapter
