"""One MLflow run for each training job: where it comes from, how it went, how it ended."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Metric, Param, RunTag
from numpy.typing import NDArray

from csr_model import CSRConfig
from csr_model.recipe import Choice
from orchestration import pictures
from orchestration.evaluate_answers import RankingQuality
from orchestration.evaluation import QUALITY_NAMES, Evaluation
from orchestration.mlflow_access import experiment_id, mlflow_errors
from orchestration.registry import Registry
from services.runtime.errors import RegistryUnavailable

REVISION_TAG: Final = "csr.git_revision"
DATA_TAG: Final = "csr.data_digest"
VALIDATION_TAG: Final = "csr.validation_rows"
"""Whether the rows that validation asks about were `held out` from training or `trained on` as well."""
RECIPE_TAG: Final = "csr.recipe"
"""Name of the candidate that the recipe chose; absent where the configuration was given."""
CANDIDATE_PREFIX: Final = "candidate."
"""Of the names of metrics with the recipe's validation scores."""
PICTURES: Final = "pictures"
"""Folder of the run's artifacts with its PNG files."""
VALIDATION_PREFIX: Final = "validation."
"""Of the names of metrics that were measured on held-out training data."""


@contextmanager
def training_run(
    registry: Registry, experiment: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> Iterator[str]:
    """Open a run, yield its id, and close it as FINISHED, KILLED (by Ctrl-C or SIGTERM) or FAILED.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    client = registry.client
    everything = {**tags, REVISION_TAG: git_revision()}
    in_experiment = experiment_id(client, registry.uri, experiment)
    with mlflow_errors(registry.uri):
        known = {key: value for key, value in everything.items() if value}
        run_id = client.create_run(in_experiment, run_name=name, tags=known).info.run_id
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    try:
        yield run_id
    except BaseException as error:
        with suppress(RegistryUnavailable), mlflow_errors(registry.uri):  # the first error is the one to see
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with mlflow_errors(registry.uri):
        client.set_terminated(run_id, "FINISHED")


def log_config(registry: Registry, run_id: str, config: CSRConfig, choice: Choice | None = None) -> None:
    """Log every setting of a training, and what the recipe chose it from if it did.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    params = [Param(name, str(value)) for name, value in asdict(config).items()]
    tags, metrics = [], []
    if choice is not None:
        now = time.time_ns() // 1_000_000
        tags = [RunTag(RECIPE_TAG, choice.name)]
        scores = {CANDIDATE_PREFIX + name.replace(",", ""): score for name, score in choice.scores.items()}
        metrics = [
            Metric(name, value, now, 0) for name, value in {**scores, "choosing_seconds": choice.seconds}.items()
        ]
    with mlflow_errors(registry.uri):
        registry.client.log_batch(run_id, metrics=metrics, params=params, tags=tags)


def log_training_quality(
    registry: Registry,
    run_id: str,
    evaluation: Evaluation,
    pca: Mapping[int, RankingQuality],
    usage: NDArray[Any],
    usage_rows: int,
) -> None:
    """Log how good the trained adapter is to its run: every number, and three pictures.

    Args:
        registry: Where the run is.
        run_id: Of a run whose epochs are logged; its metric dead_share becomes a picture.
        evaluation: On a validation set, never on the test split.
        pca: Quality of PCA on the same set, by number of dimensions.
        usage: [h] in how many training codes each latent is active.
        usage_rows: Number of those codes.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    headline = evaluation.headline
    codes = {level.k: level.search.hits.known()[headline] for level in evaluation.levels}
    thin = {search.k_docs: search.hits.known()[headline] for search in evaluation.asymmetric}
    beaten = {k: quality.known()[headline] for k, quality in pca.items()}
    dense = evaluation.dense.known().get(headline, 1.0)  # dense search finds all its own neighbours
    now = time.time_ns() // 1_000_000
    measured = [Metric(VALIDATION_PREFIX + name, value, now, 0) for name, value in evaluation.as_metrics().items()]
    with mlflow_errors(registry.uri):
        registry.client.log_batch(run_id, metrics=measured)
        history = registry.client.get_metric_history(run_id, "dead_share")
        by_epoch = {metric.step: metric.value for metric in history}  # a resumed epoch is logged again
        figures = {
            "quality_by_k": pictures.quality_by_k(QUALITY_NAMES[headline], codes, beaten, dense, thin),
            "latent_usage": pictures.usage_histogram(usage, usage_rows),
            "dead_share": pictures.dead_share_by_epoch([by_epoch[step] for step in sorted(by_epoch)]),
        }
        try:
            for name, figure in figures.items():
                registry.client.log_figure(run_id, figure, f"{PICTURES}/{name}.png")
        except OSError as error:  # a full disk, or an artifact store that answers with an error
            raise RegistryUnavailable(f"cannot store pictures under run {run_id}: {error}") from error


def git_revision() -> str:
    """Return the commit of this code, with "-dirty" when files differ from it; empty outside a checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # Installed into an environment that lies in some other checkout, this file is not tracked there.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()
