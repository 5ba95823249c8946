from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from csr_model import CSRConfig
from csr_model.autoencoder import CSRAutoencoder
from csr_model.dead_latents import DeadLatents
from csr_model.losses import CSRLoss
from csr_model.train_step import StepResult, train_step

Make = Callable[..., CSRConfig]


def steps(config: CSRConfig, x: np.ndarray, labels: np.ndarray | None, count: int) -> tuple[CSRAutoencoder, StepResult]:
    """Take `count` steps on one batch with a few latents dead from the start."""
    model = CSRAutoencoder.from_rows(config, torch.from_numpy(x), torch.zeros(config.input_dim), 1.0)
    with torch.no_grad():
        model.latent_bias[:3] = -10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    dead = DeadLatents(config.hidden_dim, dead_after_rows=1)
    y = None if labels is None else torch.from_numpy(labels)
    for _ in range(count):
        result = train_step(CSRLoss(model, config), optimizer, dead, torch.from_numpy(x), y, 1.0)
    return model, result


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (1, {}),
        (1, {"gamma": 1.0}),
        (64, {"k_aux": 0}),
        (64, {"k_aux": 48}),
        (64, {"hidden_dim": 12}),
        (64, {"hidden_dim": 8}),
        (64, {"gamma": 1.0}),
    ],
    ids=["one row", "one row, labels", "k_aux 0", "fewer dead than k_aux", "4k > h", "k = h", "labels"],
)
def test_edge_cases_stay_finite(
    config: Make, embeddings: np.ndarray, labels: np.ndarray, rows: int, changes: dict[str, Any]
) -> None:
    """Small batches and narrow models crash or give NaN elsewhere; here every weight stays finite."""
    settings = config(**({"k_aux": 4} | changes))
    model, result = steps(settings, embeddings[:rows], labels[:rows], 4)
    assert all(bool(value.isfinite()) for value in result)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_constant_batch_stays_finite(config: Make, embeddings: np.ndarray) -> None:
    """A batch of one repeated row has no variance of its own; normalising by it would divide by zero."""
    model, result = steps(config(), np.repeat(embeddings[:1], 32, axis=0), None, 4)
    assert all(bool(value.isfinite()) for value in result)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_step_lowers_the_loss(config: Make, embeddings: np.ndarray) -> None:
    """The least that training must do on one batch."""
    first = steps(config(), embeddings[:64], None, 1)[1].reconstruction
    last = steps(config(), embeddings[:64], None, 30)[1].reconstruction
    assert last < 0.9 * first


def test_counts_once_a_step(config: Make, embeddings: np.ndarray) -> None:
    """Counting in each forward pass made thresholds mean something else in the published code."""
    settings = config(gamma=0.0)
    model = CSRAutoencoder.from_rows(settings, torch.from_numpy(embeddings), torch.zeros(16), 1.0)
    with torch.no_grad():
        model.latent_bias[5] = -100
    dead = DeadLatents(48, dead_after_rows=30)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    train_step(CSRLoss(model, settings), optimizer, dead, torch.from_numpy(embeddings[:20]), None, 1.0)
    assert dead.rows_since_fired[5] == 20


def test_gradient_norm_is_clipped(config: Make, embeddings: np.ndarray) -> None:
    """One bad batch must not throw the weights away; the norm before clipping is reported."""
    settings = config()
    model = CSRAutoencoder.from_rows(settings, torch.from_numpy(embeddings), torch.zeros(16), 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    result = train_step(
        CSRLoss(model, settings), optimizer, DeadLatents(48, 100), torch.from_numpy(embeddings[:20]), None, 1e-3
    )
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert result.gradient_norm > 1e-3
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
