from collections.abc import Callable

import numpy as np
import pytest
import torch

from csr_model import CSRConfig, Training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.losses import Batch, CSRLoss
from csr_model.resampling import resample

Make = Callable[..., CSRConfig]


def trained_once(model: CSRAutoencoder, config: CSRConfig, x: torch.Tensor) -> torch.optim.Optimizer:
    """Return Adam after one step, so that every latent has moments."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    CSRLoss(model, config)(Batch(x, None, 0), None, 0.0).total.backward()
    model.latent_bias.grad = torch.ones(48)
    optimizer.step()
    return optimizer


def test_dead_latents_take_the_worst_rows(model: CSRAutoencoder, config: Make, embeddings: np.ndarray) -> None:
    """A revived latent is worth most where the code misses most; a random one would soon be dead again."""
    x = torch.from_numpy(embeddings[:32])
    optimizer, dead = trained_once(model, config(), x), torch.arange(48) >= 44
    with torch.no_grad():
        preprocessed = model.preprocess(x)
        missed = (preprocessed - model.reconstruct(model.encode(x, 8), (8,))[0]).norm(dim=1)
        norm = model.weight[:44].norm(dim=1).mean()
        worst = preprocessed[missed.argsort(descending=True)[:4]] - model.pre_bias
    changed = resample(model, optimizer, dead, x, 8)
    assert changed.tolist() == [44, 45, 46, 47]
    torch.testing.assert_close(model.weight[44:].detach(), norm * worst / worst.norm(dim=1, keepdim=True))
    assert model.latent_bias[44:].tolist() == [0, 0, 0, 0]


def test_nothing_else_moves(model: CSRAutoencoder, config: Make, embeddings: np.ndarray) -> None:
    """Live latents and their Adam moments must not notice; new latents must not inherit old momentum."""
    x = torch.from_numpy(embeddings[:32])
    optimizer, dead = trained_once(model, config(), x), torch.arange(48) % 12 == 5
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {
        (name, moment): optimizer.state[parameter][moment].clone()
        for name, parameter in model.named_parameters()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    resample(model, optimizer, dead, x, 8)
    for name, parameter in model.named_parameters():
        rows = ~dead if len(parameter) == 48 else slice(None)
        assert torch.equal(parameter[rows], before[name][rows])
        for moment in ("exp_avg", "exp_avg_sq"):
            now, then = optimizer.state[parameter][moment], moments[name, moment]
            assert torch.equal(now[rows], then[rows])
            if len(parameter) == 48:
                assert (then[dead] != 0).any()
                assert (now[dead] == 0).all()


def test_new_latents_fire(model: CSRAutoencoder, config: Make, embeddings: np.ndarray) -> None:
    """A latent that starts as a row must be active for that row, or it stays dead."""
    x = torch.from_numpy(embeddings[:32])
    optimizer, dead = trained_once(model, config(), x), torch.arange(48) >= 44
    with torch.no_grad():
        model.latent_bias[44:] = -100
    assert not set(model.encode(x, 8).latents.flatten().tolist()) & {44, 45, 46, 47}
    resample(model, optimizer, dead, x, 8)
    assert {44, 45, 46, 47} <= set(model.encode(x, 8).latents.flatten().tolist())


@pytest.mark.parametrize(("rows", "first_dead", "expected"), [(32, 0, 0), (3, 40, 0), (1, 47, 0), (9, 40, 2)], ids=str)
def test_few_at_a_time(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, rows: int, first_dead: int, expected: int
) -> None:
    """Latents that all become the same few rows would be copies; with all latents dead there is no norm to take."""
    x = torch.from_numpy(embeddings[:rows])
    optimizer = trained_once(model, config(), torch.from_numpy(embeddings[:32]))
    changed = resample(model, optimizer, torch.arange(48) >= first_dead, x, 8)
    assert len(changed) == expected
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("enabled", [True, False])
def test_training_revives_latents(config: Make, embeddings: np.ndarray, enabled: bool) -> None:
    """Latents that died early must come back while there is time to learn, and only where this is wanted."""
    training = Training(config(dead_after_rows=64, epochs=10, resample=enabled, beta=0.0), embeddings)
    training.run_epoch()
    with torch.no_grad():
        training.autoencoder.latent_bias[:10] = -100
    while not training.done:
        training.run_epoch()
    silent = (training.adapter().usage[:10] == 0).sum()
    assert (training.resampled > 0) == enabled
    assert silent == 0 if enabled else silent == 10


def test_late_in_a_run_nothing_starts_again(config: Make, embeddings: np.ndarray) -> None:
    """A latent that starts again in the last steps would be served untrained."""
    training = Training(config(dead_after_rows=64, epochs=10), embeddings)
    while training.epoch < 8:
        training.run_epoch()
    with torch.no_grad():
        training.autoencoder.latent_bias[:10] = -100
    before = training.resampled
    while not training.done:
        training.run_epoch()
    assert training.resampled == before
