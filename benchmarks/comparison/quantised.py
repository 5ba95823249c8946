"""Quantised vectors at the bytes of a code: int8, one bit a dimension, product quantisation.

Documents are compressed, queries stay float32 and are compared with what the documents decode to. All quantise
principal components of the training rows after a random rotation, as many as the bytes allow.
"""

from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans

from benchmarks.comparison.outcome import KS, Outcome, training_clock, vector_ranking
from benchmarks.comparison.problem import Floats, Problem
from benchmarks.comparison.settings import Settings
from csr_model.baselines.pca import PCA

BYTES_PER_LATENT = 4
"""Of a stored code: two of number, two of weight."""
BYTES = tuple(BYTES_PER_LATENT * k for k in KS)

_PQ_DIMS = 256
_PQ_CENTRES = 256
_PQ_TRAINING_ROWS = 8_192
_PQ_ITERATIONS = 10
_INT8_RANGE = 127

Restore = Callable[[Floats], Floats]
"""Vectors → what they look like after compression."""


def run_int8(problem: Problem, settings: Settings) -> Outcome:
    """Keep as many principal components as bytes, each in steps of 1/127 of its largest value in training."""
    return _run(problem, lambda size: size, lambda rows, size: _int8(rows), settings)


def run_binary(problem: Problem, settings: Settings) -> Outcome:
    """Keep the signs of eight components a byte, at most d."""
    return _run(problem, lambda size: 8 * size, lambda rows, size: _signs, settings)


def run_pq(problem: Problem, settings: Settings) -> Outcome:
    """Keep for each byte the nearest of 256 centres of one part of 256 components (product quantisation)."""
    return _run(
        problem, lambda size: _PQ_DIMS, lambda rows, size: _nearest_centres(rows, size, settings.seed), settings
    )


def _run(
    problem: Problem, dims_of: Callable[[int], int], fit: Callable[[Floats, int], Restore], settings: Settings
) -> Outcome:
    """Fit and search at each size.

    Args:
        problem: What to learn from and to search.
        dims_of: Bytes → components that are quantised, if there are as many.
        fit: (components of training rows, bytes) → how documents are compressed.
        settings: The seed.
    """
    dims = {size: min(dims_of(size), problem.input_dim) for size in BYTES}
    with training_clock() as clock:
        pca = PCA.fit(problem.train, max(dims.values()))
    seconds = clock.seconds
    train, documents, queries = (pca.transform(rows) for rows in (problem.train, problem.documents, problem.queries))
    rankings = {}
    for size, count in dims.items():
        rotation = _rotation(count, settings.seed)
        with training_clock() as clock:
            restore = fit(train[:, :count] @ rotation, size)
        seconds += clock.seconds
        rankings[f"{size}B"] = vector_ranking(restore(documents[:, :count] @ rotation), queries[:, :count] @ rotation)
    return Outcome(rankings, {}, seconds, len(problem.train))


def _rotation(dims: int, seed: int) -> Floats:
    """Return a random orthogonal matrix: it spreads the variance evenly, so that no bit or byte is wasted."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dims, dims)))[0].astype(np.float32)


def _int8(train: Floats) -> Restore:
    step = np.abs(train).max(axis=0) / _INT8_RANGE
    return lambda rows: np.clip(np.rint(rows / step), -_INT8_RANGE, _INT8_RANGE).astype(np.float32) * step


def _signs(rows: Floats) -> Floats:
    return np.where(rows > 0, 1, -1).astype(np.float32)


def _nearest_centres(train: Floats, parts: int, seed: int) -> Restore:
    sample = np.random.default_rng(seed).permutation(len(train))[:_PQ_TRAINING_ROWS]
    columns = np.array_split(np.arange(train.shape[1]), min(parts, train.shape[1]))
    models = [
        KMeans(min(_PQ_CENTRES, len(sample)), init="random", n_init=1, max_iter=_PQ_ITERATIONS, random_state=seed).fit(
            train[np.ix_(sample, part)]
        )
        for part in columns
    ]

    def restore(rows: Floats) -> Floats:
        decoded = [
            model.cluster_centers_[model.predict(rows[:, part])] for model, part in zip(models, columns, strict=True)
        ]
        return np.concatenate(decoded, axis=1, dtype=np.float32)

    return restore
