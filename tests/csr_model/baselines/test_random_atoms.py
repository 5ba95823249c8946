from collections.abc import Callable

import numpy as np
import pytest

from csr_model import CSRConfig, InvalidTrainingData
from csr_model.baselines.random_atoms import random_atoms

Make = Callable[..., CSRConfig]


def test_a_row_that_is_an_atom_chooses_itself(embeddings: np.ndarray, config: Make) -> None:
    """Latents are training rows: with as many latents as rows each row's strongest latent is its own."""
    adapter = random_atoms(embeddings[:48], config(hidden_dim=48))
    codes = adapter.encode(embeddings[:48], 1)
    assert sorted(codes.latents[:, 0].tolist()) == list(range(48))


def test_seed_decides_the_rows(embeddings: np.ndarray, config: Make) -> None:
    """A baseline that cannot be repeated is none."""
    first, again, other = (random_atoms(embeddings, config(seed=seed)).fingerprint for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_too_few_rows_are_refused(embeddings: np.ndarray, config: Make) -> None:
    """A repeated row would be a latent that never fires."""
    with pytest.raises(InvalidTrainingData, match="40 rows cannot be 48 latents"):
        random_atoms(embeddings[:40], config())


def test_usage_stands_for_all_rows(embeddings: np.ndarray, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a data set ordered by class, latents of the later classes would be counted as dead."""
    monkeypatch.setattr("csr_model.baselines.random_atoms._USAGE_ROWS", 80)
    adapter = random_atoms(embeddings, config())
    codes = adapter.encode(embeddings[np.linspace(0, 319, 80).astype(int)], adapter.k_max)
    assert adapter.usage.tolist() == np.bincount(codes.latents[codes.weights > 0], minlength=48).tolist()
