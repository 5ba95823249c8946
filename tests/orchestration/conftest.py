"""A registry on a real sqlite file, small clustered data, and adapters trained on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from csr_model import CSRAdapter, CSRConfig, fit
from orchestration.data.split import EmbeddedSplit, data_digest
from orchestration.registry import ModelVersionInfo, Registry
from orchestration.tracking import training_run
from services.runtime.settings import RegistrySettings, Settings, TrainingSettings

INPUT_DIM = 16

Register = Callable[[str, CSRAdapter], ModelVersionInfo]


def make_split(rows: int, seed: int) -> EmbeddedSplit:
    """Return embeddings [rows, 16] around 12 fixed directions, labelled by direction."""
    centres = np.random.default_rng(99).normal(size=(12, INPUT_DIM))
    random = np.random.default_rng(seed)
    labels = random.integers(12, size=rows)
    embeddings = (centres[labels] + 0.35 * random.normal(size=(rows, INPUT_DIM))).astype(np.float32)
    ids = [f"{seed}-{row}" for row in range(rows)]
    texts = [f"text {row}" for row in range(rows)]
    names = [f"direction {number}" for number in range(12)]
    return EmbeddedSplit(ids, embeddings, labels, names, texts, data_digest(ids, embeddings, labels))


def make_config(**changes: object) -> CSRConfig:
    """Return a configuration for `make_split` that trains in a blink."""
    fields = {"hidden_dim": 48, "levels": (2, 4, 8), "k_aux": 6, "batch_size": 64, "epochs": 4, "dead_after_rows": 200}
    return CSRConfig.from_fields({"input_dim": INPUT_DIM, **fields, **changes})


@pytest.fixture(scope="session")
def split() -> EmbeddedSplit:
    """320 documents to train on."""
    return make_split(320, seed=0)


@pytest.fixture(scope="session")
def held_out() -> EmbeddedSplit:
    """120 queries that no adapter has seen."""
    return make_split(120, seed=1)


@pytest.fixture(scope="session")
def adapters(split: EmbeddedSplit) -> list[CSRAdapter]:
    """Two adapters of the same shape with different fingerprints."""
    return [fit(split.embeddings, config=make_config(seed=seed, epochs=12)).adapter for seed in (0, 1)]


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose folders and registry belong to this test session alone."""
    folder = tmp_path_factory.mktemp("orchestration")
    return Settings(
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        registry=RegistrySettings(uri=f"sqlite:///{folder / 'data' / 'mlflow.db'}"),
        training=TrainingSettings(workers=2, max_failures=2),
    )


@pytest.fixture(scope="session")
def registry(settings: Settings) -> Registry:
    """The registry of `settings`, made once because it takes seconds; each test uses a model name of its own."""
    return Registry.open(settings)


@pytest.fixture
def register(registry: Registry, settings: Settings, tmp_path: Path) -> Register:
    """Return a function that registers an adapter as the next version of a model."""

    def register(name: str, adapter: CSRAdapter) -> ModelVersionInfo:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        saved = adapter.save(folder, metrics={"total": 0.25}, backbone="some-backbone")
        assert saved.fingerprint == adapter.fingerprint
        with training_run(registry, settings.registry.experiment, name, {}, {}) as run_id:
            return registry.register(name, run_id, folder)

    return register
