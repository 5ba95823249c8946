"""A tiny model on its whole way: real text, Ray Train, MLflow, gates, champion. Imports torch, Ray and MLflow."""

from dataclasses import dataclass
from pathlib import Path

from csr_model import CSRAdapter, CSRConfig
from orchestration.cli.model_views import evaluate_version
from orchestration.data.catalog import MINILM_NAME, load_newsgroups20_sample
from orchestration.data.sets import EmbeddedSet
from orchestration.promote import Promotion, promote
from orchestration.registry import Registry
from orchestration.train_job import TrainedVersion, train
from services.runtime.settings import RegistrySettings, Settings, load_settings
from tests.support.ray_cluster import RayCluster

ROWS = {"train": 600, "test": 240}


@dataclass(frozen=True)
class Champion:
    """The model and what it was made from.

    Attributes:
        registry_uri: Of the MLflow that knows it under the default name.
        data: What it was trained and judged on.
    """

    registry_uri: str
    trained: TrainedVersion
    promotion: Promotion
    adapter: CSRAdapter
    data: EmbeddedSet


def train_and_promote(folder: Path, cluster: RayCluster) -> Champion:
    """Train on two workers of the cluster, register in `folder`, evaluate, and promote because every gate passes."""
    settings = Settings(data_dir=folder, registry=RegistrySettings(uri=f"sqlite:///{folder / 'mlflow.db'}"))
    data = load_newsgroups20_sample(load_settings().cache_dir, rows=ROWS)
    rows, input_dim = data.train.embeddings.shape
    config = CSRConfig.automatic(input_dim, rows, hidden_dim=512, epochs=12)
    with cluster.joined():
        trained = train(settings, data, config, backbone=MINILM_NAME)
    registry = Registry.open(settings)
    promotion = promote(registry, trained.name, lambda version: evaluate_version(registry, data, version))
    assert promotion.outcome == "promoted", promotion.gates
    return Champion(settings.registry_uri, trained, promotion, registry.load(promotion.version), data)
