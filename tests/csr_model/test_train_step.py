from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from csr_model import CSRConfig
from csr_model.autoencoder import CSRAutoencoder
from csr_model.dead_latents import DeadLatents
from csr_model.losses import Batch, CSRLoss
from csr_model.train_step import StepResult, train_step
from tests.csr_model.conftest import started

Make = Callable[..., CSRConfig]


def steps(config: CSRConfig, batch: Batch, count: int) -> tuple[CSRAutoencoder, StepResult]:
    """Take `count` steps on one batch with a few latents dead from the start."""
    model = started(config, batch.embeddings.numpy())
    with torch.no_grad():
        model.latent_bias[:3] = -10
    objective = CSRLoss(model, config)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    dead = DeadLatents(config.hidden_dim, dead_after_rows=1)
    for step in range(count):
        result = train_step(objective, optimizer, dead, batch, step / count, 1.0)
    return model, result


def one_batch(x: np.ndarray, labels: np.ndarray | None = None, pairs: int = 0) -> Batch:
    """Return rows as a batch."""
    return Batch(torch.from_numpy(x), None if labels is None else torch.from_numpy(labels), pairs)


EVERYTHING = {"gamma_labels": 1.0, "gamma_pairs": 1.0, "gamma_neighbours": 1.0, "anneal_from": 12}


@pytest.mark.parametrize(
    ("rows", "pairs", "changes"),
    [
        (1, 0, {}),
        (1, 0, {"gamma_labels": 1.0}),
        (1, 0, {"gamma_neighbours": 1.0}),
        (3, 1, {"gamma_pairs": 1.0, "gamma_neighbours": 1.0}),
        (64, 0, {"k_aux": 0}),
        (64, 0, {"k_aux": 48}),
        (64, 16, {"hidden_dim": 12} | EVERYTHING),
        (64, 16, {"hidden_dim": 8} | EVERYTHING | {"anneal_from": 8}),
        (64, 16, EVERYTHING),
        (64, 16, {"precision": "bfloat16"} | EVERYTHING),
    ],
    ids=[
        "one row",
        "one row, labels",
        "one row, neighbours",
        "one pair",
        "k_aux 0",
        "fewer dead than k_aux",
        "4k > h",
        "k = h",
        "all objectives",
        "bfloat16",
    ],
)
def test_edge_cases_stay_finite(
    config: Make, embeddings: np.ndarray, labels: np.ndarray, rows: int, pairs: int, changes: dict[str, Any]
) -> None:
    """Small batches and narrow models crash or give NaN elsewhere; here every weight stays finite."""
    settings = config(**({"k_aux": 4} | changes))
    model, result = steps(settings, one_batch(embeddings[:rows], labels[:rows], pairs), 4)
    assert all(bool(value.isfinite()) for value in result)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["reconstruction", "all objectives"])
def test_constant_batch_stays_finite(config: Make, embeddings: np.ndarray, changes: dict[str, Any]) -> None:
    """A batch of one repeated row has no variance of its own; normalising by it would divide by zero."""
    batch = one_batch(np.repeat(embeddings[:1], 32, axis=0), np.zeros(32, np.int64), 8)
    model, result = steps(config(**changes), batch, 4)
    assert all(bool(value.isfinite()) for value in result)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_step_lowers_the_loss(config: Make, embeddings: np.ndarray) -> None:
    """The least that training must do on one batch."""
    first = steps(config(), one_batch(embeddings[:64]), 1)[1].reconstruction
    last = steps(config(), one_batch(embeddings[:64]), 30)[1].reconstruction
    assert last < 0.9 * first


def test_counts_once_a_step(config: Make, embeddings: np.ndarray) -> None:
    """Counting in each forward pass made thresholds mean something else in the published code."""
    model = started(config(), embeddings)
    with torch.no_grad():
        model.latent_bias[5] = -100
    dead = DeadLatents(48, dead_after_rows=30)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    train_step(CSRLoss(model, config()), optimizer, dead, one_batch(embeddings[:20]), 0.0, 1.0)
    assert dead.rows_since_fired[5] == 20


@pytest.mark.parametrize("clip", [1e-3, None])
def test_gradient_norm_is_clipped(config: Make, embeddings: np.ndarray, clip: float | None) -> None:
    """One bad batch must not throw the weights away; the norm before clipping is reported."""
    model = started(config(), embeddings)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    batch = one_batch(embeddings[:20])
    result = train_step(CSRLoss(model, config()), optimizer, DeadLatents(48, 100), batch, 0.0, clip)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert result.gradient_norm > 1e-3
    assert moved.norm().item() == pytest.approx(clip or result.gradient_norm.item(), rel=1e-3)
