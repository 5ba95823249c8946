"""Every method that is compared."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.comparison import official, ours, quantised, sentence_transformers_loss, short_vectors
from benchmarks.comparison.outcome import Outcome
from benchmarks.comparison.problem import Problem
from benchmarks.comparison.settings import Settings

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
"""What every trained competitor chooses from on validation."""


@dataclass(frozen=True)
class Method:
    """A method and what it may choose.

    Attributes:
        name: Of its cells.
        title: In reports.
        run: Trains and ranks.
        learning_rates: To choose from by validation; none if there is nothing to choose.
        per_k: Trains a model for each k; the learning rate is chosen at `SELECTION_KS`.
        seeds: Trainings, whose scores are averaged query by query.
    """

    name: str
    title: str
    run: Callable[[Problem, Settings], Outcome]
    learning_rates: tuple[float, ...] = ()
    per_k: bool = False
    seeds: int = 1


def all_methods(seeds: int) -> tuple[Method, ...]:
    """Return the methods in the order in which they run; ours, with `seeds` trainings, is the last."""
    return (
        Method("dense", "dense", short_vectors.run_dense),
        Method("pca", "PCA", short_vectors.run_pca),
        Method("truncation", "truncation", short_vectors.run_truncation),
        Method("random-atoms", "random atoms, untrained", ours.run_random_atoms),
        Method("official-sae", "official SAE, one per k", official.run_sae, LEARNING_RATES, per_k=True),
        Method("official-csr", "official CSR, one per k", official.run_csr, LEARNING_RATES, per_k=True),
        Method(
            "sentence-transformers", "sentence-transformers CSRLoss", sentence_transformers_loss.run, LEARNING_RATES
        ),
        Method("mrl", "MRL linear head", short_vectors.run_mrl, LEARNING_RATES),
        Method("int8", "int8 PCA", quantised.run_int8),
        Method("binary", "binary PCA", quantised.run_binary),
        Method("pq", "product quantisation", quantised.run_pq),
        Method("ours", "ours", ours.run_ours, seeds=seeds),
    )
