"""What a method is given: rows to learn from, documents to search, and queries whose right answers are known."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_model import metrics
from csr_model.batches import Pairs
from csr_model.validation import held_out
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

TOP_N = 10
"""Hits of a ranking: what nDCG@10 and recall@10 look at."""

_VALIDATION_QUERIES = 2_000
_VALIDATION_DOCUMENTS_AS_QUERIES = 500
_ROWS_TO_SEE = 256_000  # no fewer than our own recipe's, on any set
_INPUT_DIM_OF_FULL_BUDGET = 640


@dataclass(frozen=True, eq=False)
class Problem:
    """Embeddings have unit length; comparisons are by cosine.

    Attributes:
        name: Of the data set.
        train: [n, d], what may be learned from.
        ids: [n], of the training rows.
        labels: [n] of the training rows, or None.
        pairs: Rows of `train` that belong together, or None.
        documents: [m, d], what is searched.
        document_labels: [m]; right is the nearest document's label where there are labels.
        queries: [q, d].
        query_labels: [q].
        relevant: [r, 2], (query row, document row), where there are no labels. With neither, right are the nearest
            documents of the uncompressed embeddings.
    """

    name: str
    train: Floats
    ids: list[str]
    labels: Rows | None
    pairs: Pairs | None
    documents: Floats
    document_labels: Rows | None
    queries: Floats
    query_labels: Rows | None
    relevant: Rows | None

    @property
    def input_dim(self) -> int:
        """d."""
        return int(self.train.shape[1])

    @property
    def rows_to_see(self) -> int:
        """Training rows that every competitor sees: 256,000, and fewer in inverse proportion to d above 640."""
        return min(_ROWS_TO_SEE, _ROWS_TO_SEE * _INPUT_DIM_OF_FULL_BUDGET // self.input_dim)

    @property
    def measure(self) -> str:
        """What `scores` returns."""
        if self.query_labels is not None:
            return "1-NN accuracy"
        return "nDCG@10" if self.relevant is not None else "recall@10 against dense"

    def scores(self, ranking: Rows) -> NDArray[np.float64]:
        """Return each query's score, 0 … 1, for its best documents [q, 10]; −1 where a ranking has ended."""
        if self.query_labels is not None:
            assert self.document_labels is not None
            return metrics.one_nn_hits(ranking, self.document_labels, self.query_labels)
        if self.relevant is not None:
            return metrics.ndcgs(ranking, self.relevant, TOP_N)
        return metrics.recalls(ranking, metrics.dense_neighbours(self.documents, self.queries, TOP_N))

    def digest(self) -> str:
        """Return what tells this problem from others, 16 hex digits: over float16 embeddings and answers."""
        digest = hashlib.sha256(self.name.encode())
        for rows in (self.train, self.documents, self.queries):
            digest.update(rows.astype(np.float16).tobytes())
        for answers in (self.labels, self.query_labels, self.relevant, self.pairs):
            if answers is not None:
                digest.update(np.ascontiguousarray(answers).tobytes())
        return digest.hexdigest()[:16]


def final_problem(data: EmbeddedSet) -> Problem:
    """Return the whole training split against the whole test split."""
    return Problem(
        name=data.name,
        train=_unit(data.train),
        ids=data.train.ids,
        labels=data.train.labels,
        pairs=_pairs(data.pairs),
        documents=_unit(data.documents),
        document_labels=data.documents.labels if data.relevant is None else None,
        queries=_unit(data.queries),
        query_labels=data.queries.labels if data.relevant is None else None,
        relevant=data.relevant,
    )


def validation_problem(data: EmbeddedSet) -> Problem:
    """Return a problem made of training data alone, a tenth of it held out by id hash.

    With labels: held-out rows are queries, the other rows train and are documents. With pairs: the queries of held-out
    pairs are queries and do not train. With neither: 500 held-out rows are queries, the others train and are documents.
    """
    train, ids = _unit(data.train), np.array(data.train.ids)
    if data.pairs is not None:
        return _held_out_pairs(data, train)
    held = held_out(data.train.ids)
    asked = np.flatnonzero(held)[
        : _VALIDATION_QUERIES if data.train.labels is not None else _VALIDATION_DOCUMENTS_AS_QUERIES
    ]
    if data.train.labels is None:
        held = np.isin(np.arange(len(held)), asked)
    labels = data.train.labels
    return Problem(
        name=data.name,
        train=train[~held],
        ids=ids[~held].tolist(),
        labels=None if labels is None else labels[~held],
        pairs=None,
        documents=train[~held],
        document_labels=None if labels is None else labels[~held],
        queries=train[asked],
        query_labels=None if labels is None else labels[asked],
        relevant=None,
    )


def _held_out_pairs(data: EmbeddedSet, train: Floats) -> Problem:
    assert data.pairs is not None
    queries, documents = data.pairs.T
    held = held_out([data.train.ids[row] for row in queries])
    asked, place = np.unique(queries[held], return_inverse=True)
    kept = ~np.isin(np.arange(len(train)), asked)
    searched = np.setdiff1d(np.arange(len(train)), queries)
    few = place < _VALIDATION_QUERIES
    new_row = np.cumsum(kept) - 1
    relevant = np.stack([place[few], np.searchsorted(searched, documents[held][few])], axis=1)
    return Problem(
        name=data.name,
        train=train[kept],
        ids=np.array(data.train.ids)[kept].tolist(),
        labels=None,
        pairs=Pairs(new_row[queries[~held]], new_row[documents[~held]]),
        documents=train[searched],
        document_labels=None,
        queries=train[asked[:_VALIDATION_QUERIES]],
        query_labels=None,
        relevant=relevant.astype(np.int64),
    )


def _pairs(rows: Rows | None) -> Pairs | None:
    return None if rows is None else Pairs(np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1]))


def _unit(split: EmbeddedSplit) -> Floats:
    rows: NDArray[Any] = np.asarray(split.embeddings, np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
