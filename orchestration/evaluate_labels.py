"""How well labels can be told from vectors: a linear probe and a clustering, on codes or on dense embeddings."""

import warnings
from typing import Any, Final, TypeAlias

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score
from threadpoolctl import threadpool_limits

Vectors: TypeAlias = scipy.sparse.csr_matrix | NDArray[np.float32]
"""[n, dimensions], of unit length; nothing is standardised."""

_PROBE_ITERATIONS: Final = 100
_KMEANS_STARTS: Final = 3
_SEED: Final = 0
_THREADS: Final = 1
"""The products are so small that threads would wait for each other: on busy cores, 20 times the time."""


def probe_hits(
    documents: Vectors, document_labels: NDArray[Any], queries: Vectors, query_labels: NDArray[Any]
) -> NDArray[np.float64]:
    """Fit a logistic regression to the documents; return [q]: 1 where it gives a query its label, else 0.

    At most 100 iterations of L-BFGS with scikit-learn's own regularisation, C = 1: a probe that stops early says
    little less, and every contender has the same.
    """
    if len(np.unique(document_labels)) == 1:  # nothing to tell apart, which scikit-learn refuses
        return np.asarray(query_labels == document_labels[0], np.float64)
    probe = LogisticRegression(max_iter=_PROBE_ITERATIONS)
    with threadpool_limits(_THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is intended
        probe.fit(documents, document_labels)
    return np.asarray(probe.predict(queries) == query_labels, np.float64)


def v_measure(vectors: Vectors, labels: NDArray[Any]) -> float:
    """Return the V-measure (harmonic mean of homogeneity and completeness), 0 … 1, of as many clusters as labels."""
    clusters = MiniBatchKMeans(len(np.unique(labels)), n_init=_KMEANS_STARTS, random_state=_SEED)
    with threadpool_limits(_THREADS):
        return float(v_measure_score(labels, clusters.fit_predict(vectors)))
