"""Methods that shorten vectors: PCA, truncation and a trained Matryoshka head, kept as float16."""

from benchmarks.comparison.outcome import Outcome, outcome_of_vectors, training_clock, vector_ranking
from benchmarks.comparison.problem import Problem
from benchmarks.comparison.settings import Settings
from csr_model.baselines.mrl import DIMS, fit_mrl
from csr_model.baselines.pca import PCA


def run_dense(problem: Problem, settings: Settings) -> Outcome:
    """Search the embeddings as they are."""
    return Outcome({"full": vector_ranking(problem.documents, problem.queries)}, {}, 0.0, 0)


def run_pca(problem: Problem, settings: Settings) -> Outcome:
    """Keep the first principal components of the training rows."""
    with training_clock() as clock:
        pca = PCA.fit(problem.train, max(DIMS))
    return outcome_of_vectors(problem, pca.transform, DIMS, clock.seconds, len(problem.train))


def run_truncation(problem: Problem, settings: Settings) -> Outcome:
    """Keep the first dimensions of the embedding."""
    return outcome_of_vectors(problem, lambda rows: rows, DIMS, 0.0, 0)


def run_mrl(problem: Problem, settings: Settings) -> Outcome:
    """Train a linear map whose prefixes are embeddings, from labels, pairs or dense neighbours as the set has them."""
    assert settings.learning_rate is not None
    with training_clock() as clock:
        head = fit_mrl(
            problem.train,
            labels=problem.labels,
            pairs=problem.pairs,
            learning_rate=settings.learning_rate,
            rows_to_see=problem.rows_to_see,
            seed=settings.seed,
        )
    return outcome_of_vectors(problem, head.transform, DIMS, clock.seconds, problem.rows_to_see)
