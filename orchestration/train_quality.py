"""How good a freshly trained adapter is, for its MLflow run: measured on validation rows, never on the test split."""

from dataclasses import replace
from typing import Final

from csr_model import CSRAdapter
from orchestration.data.sets import EmbeddedSet
from orchestration.evaluate import measure
from orchestration.evaluate_answers import Answers
from orchestration.evaluate_baselines import pca_quality
from orchestration.registry import Registry
from orchestration.tracking import log_training_quality
from orchestration.train_validation import DOCUMENTS_MAX, QUERIES_MAX
from orchestration.validation_set import HeldOutRows, spread, validation_set

_ROWS_MAX: Final = 100_000
"""Training rows that PCA is fitted to."""


def log_quality(
    registry: Registry, run_id: str, adapter: CSRAdapter, data: EmbeddedSet, held_out: HeldOutRows
) -> dict[str, float]:
    """Measure quality at every k, log it with its pictures, and return it by name, as `Evaluation.as_metrics`.

    Large sets are measured on a part of them, evenly spread, so that neither time nor memory grows with the set.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    thin = held_out.thinned(QUERIES_MAX, DOCUMENTS_MAX)
    few = replace(thin, learned=spread(thin.learned, _ROWS_MAX), pairs=None)
    judging = validation_set(data, few)
    answers = Answers.of(judging)
    evaluation = measure(adapter, judging, answers=answers).evaluation
    pca = pca_quality(judging, adapter.levels, answers)
    usage = adapter.usage.cpu().numpy()
    log_training_quality(registry, run_id, evaluation, pca, usage, adapter.manifest.usage_rows)
    return evaluation.as_metrics()
