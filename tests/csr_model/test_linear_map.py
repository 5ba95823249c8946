from collections.abc import Callable

import numpy as np
import pytest
import torch

from csr_model import CSRConfig, Training
from csr_model.batches import Pairs
from csr_model.linear_map import MapLoss
from csr_model.losses import Batch

Make = Callable[..., CSRConfig]


@pytest.fixture(scope="module")
def paired() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries [300, 16] and documents [300, 16] that share 4 of 16 dimensions, the rest is noise; and topics [300]."""
    random = np.random.default_rng(0)
    topics = random.integers(60, size=300)
    meaning = random.normal(size=(60, 4))[topics]
    sides = [np.hstack([meaning, 1.2 * random.normal(size=(300, 12))]).astype(np.float32) for _ in range(2)]
    return sides[0], sides[1], topics


def rows_of(paired: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, Pairs]:
    """Return all embeddings, and the first 200 pairs; the last 100 are held out."""
    queries, documents, _ = paired
    return np.concatenate([queries, documents]), Pairs(np.arange(200), np.arange(300, 500))


def learned(config: CSRConfig, x: np.ndarray, labels: np.ndarray | None, pairs: Pairs | None) -> Training:
    """Return a training whose first stage, and one epoch, have run."""
    training = Training(config, x, labels, pairs)
    training.run_epoch()
    return training


def mean_rank(queries: np.ndarray, documents: np.ndarray) -> float:
    """Return the mean place of each query's document among all, 0 the best."""
    q, d = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, documents))
    cosines = q @ d.T
    return float((cosines > np.diag(cosines)[:, None]).sum(1).mean())


def test_held_out_pairs_rank_better(config: Make, paired: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The first stage is worth its cost only if pairs it never saw come closer."""
    x, pairs = rows_of(paired)
    settings = config(linear_map="pairs", map_examples=8000, map_learning_rate=1e-2, epochs=1)
    model = learned(settings, x, None, pairs).autoencoder
    assert model.linear_map is not None
    held_out = [side[200:] for side in paired[:2]]
    before, after = mean_rank(*held_out), mean_rank(*(side @ model.linear_map.numpy().T for side in held_out))
    assert after < 0.7 * before


@pytest.mark.parametrize("what", ["labels", "pairs"])
def test_its_loss_goes_down(config: Make, paired: tuple[np.ndarray, np.ndarray, np.ndarray], what: str) -> None:
    """A wrong sign or a detached tensor would leave the map the identity, or worse."""
    x, pairs = rows_of(paired)
    labels = np.concatenate([paired[2]] * 2)
    settings = config(linear_map=what, map_examples=4000, map_learning_rate=1e-2, epochs=1)
    model = learned(settings, x, labels if what == "labels" else None, pairs if what == "pairs" else None).autoencoder
    rows = np.concatenate([pairs.queries, pairs.documents])
    batch = Batch(torch.from_numpy(x[rows]), torch.from_numpy(labels[rows]), 200)
    objective = MapLoss(settings)
    with torch.no_grad():
        before = objective(batch)
        objective.residual.copy_(model.linear_map - torch.eye(16))
        after = objective(batch)
    assert after < 0.9 * before


@pytest.mark.parametrize("normalize", [True, False])
def test_mapped_rows_are_centred_and_scaled(
    config: Make, paired: tuple[np.ndarray, np.ndarray, np.ndarray], normalize: bool
) -> None:
    """Loss weights carry over only if x' has mean 0 and variance 1 after the map as well as without one."""
    x, pairs = rows_of(paired)
    settings = config(linear_map="pairs", map_examples=1000, epochs=1, normalize=normalize)
    model = learned(settings, x, None, pairs).autoencoder
    u = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True) if normalize else x)
    assert model.linear_map is not None
    mapped = u @ model.linear_map.T
    assert (model.linear_map - torch.eye(16)).abs().max() > 1e-3
    torch.testing.assert_close(model.mean, mapped.mean(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.scale**-2, (mapped - mapped.mean(0)).square().sum(1).mean(), rtol=1e-4, atol=0)
    preprocessed = model.preprocess(torch.from_numpy(x))
    torch.testing.assert_close(preprocessed, (mapped - model.mean) * model.scale, rtol=1e-4, atol=1e-5)
    assert preprocessed.mean(0).abs().max() < 1e-4
    assert preprocessed.square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)


def test_same_seed_same_map(config: Make, paired: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """A resumed or repeated run must start its second stage from the same embeddings, bit for bit."""
    x, pairs = rows_of(paired)
    settings = config(linear_map="pairs", map_examples=600, epochs=1)
    one, two = (learned(settings, x, None, pairs).autoencoder.linear_map for _ in range(2))
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
