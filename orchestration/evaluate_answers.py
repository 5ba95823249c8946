"""What a set knows about right answers, and how a ranking compares with them, query by query."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from csr_model import metrics
from orchestration.data.sets import EmbeddedSet

NEIGHBOURS: Final = 10
"""Places that nDCG and the plain recall look at."""
NEIGHBOURS_MAX: Final = 100
"""The longest ranking that is looked at."""
RELEVANT_AT: Final = (1, 5, 10)

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = dict[str, NDArray[np.float64]]
"""Scores of each query by field of RankingQuality; fields that the set cannot judge are absent. NaN for a query
without relevant documents. The back_ fields have one score for each document that some query is relevant to."""


@dataclass(frozen=True, kw_only=True)
class RankingQuality:
    """Means over the queries of a set, 0 … 1; None where the set cannot say.

    Attributes:
        one_nn: Share of queries whose best hit has their label.
        ndcg: nDCG@10, the ideal from all relevant documents.
        relevant_recall_1: R@1, the share of a query's relevant documents at the first place.
        relevant_recall_5: R@5.
        relevant_recall_10: R@10.
        back_recall_1: R@1 in the other direction, as from texts to images: relevant documents ask, queries are found.
        back_recall_5: R@5 in the other direction.
        back_recall_10: R@10 in the other direction.
        recall_1: Share of queries whose nearest document by dense cosine is the best hit.
        recall: Share of the 10 nearest documents by dense cosine among the 10 best hits.
        recall_100: Share of the 100 nearest among the 100 best hits; None for 50 re-ranked hits.
    """

    one_nn: float | None = None
    ndcg: float | None = None
    relevant_recall_1: float | None = None
    relevant_recall_5: float | None = None
    relevant_recall_10: float | None = None
    back_recall_1: float | None = None
    back_recall_5: float | None = None
    back_recall_10: float | None = None
    recall_1: float | None = None
    recall: float | None = None
    recall_100: float | None = None

    @classmethod
    def of(cls, scores: Mapping[str, NDArray[np.float64]]) -> Self:
        """Return the means; queries without relevant documents do not count."""
        return cls(**{name: float(np.nanmean(values)) for name, values in scores.items()})

    def known(self) -> dict[str, float]:
        """Return the fields that are not None, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, eq=False)
class Answers:
    """Right answers, found once and compared with every ranking.

    Attributes:
        nearest: [q, ≤ 100] each query's documents by dense cosine.
        labels: Of documents and queries; None unless both have some.
        relevant: [r, 2] rows of queries and documents; None where labels decide, or nothing does.
        asking_back: Rows of the documents that some query is relevant to, ascending; empty without relevance.
        relevant_back: [r, 2] positions in `asking_back` and rows of queries.
    """

    nearest: Rows
    labels: tuple[NDArray[Any], NDArray[Any]] | None
    relevant: Rows | None
    asking_back: Rows
    relevant_back: Rows

    @classmethod
    def of(cls, data: EmbeddedSet) -> Self:
        """Search exactly by dense cosine, and turn relevance around."""
        documents, queries = data.documents, data.queries
        nearest = nearest_rows(documents.embeddings, queries.embeddings, NEIGHBOURS_MAX)
        labels = None
        if documents.labels is not None and queries.labels is not None:
            labels = (documents.labels, queries.labels)
        relevant = np.zeros((0, 2), np.int64) if data.relevant is None else data.relevant
        asking_back, positions = np.unique(relevant[:, 1], return_inverse=True)
        back = np.stack([positions.reshape(-1), relevant[:, 0]], axis=1)
        return cls(nearest, labels, data.relevant if len(relevant) else None, asking_back, back)

    def scores(self, found: Rows, found_back: Rows) -> Scores:
        """Compare with labels and relevance.

        Args:
            found: [q, ≥ 10 or all] rows of documents, best first, −1 behind the last hit.
            found_back: [len(asking_back), ≥ 10 or all] rows of queries, alike.
        """
        scores: Scores = {}
        if self.labels is not None:
            scores["one_nn"] = metrics.one_nn_hits(found, *self.labels)
        if self.relevant is not None:
            scores["ndcg"] = metrics.ndcgs(found, self.relevant, NEIGHBOURS)
            for n in RELEVANT_AT:
                scores[f"relevant_recall_{n}"] = metrics.relevant_recalls(found, self.relevant, n)
                scores[f"back_recall_{n}"] = metrics.relevant_recalls(found_back, self.relevant_back, n)
        return scores

    def fidelity(self, found: Rows) -> Scores:
        """Compare with exact dense search, as far as `found` reaches."""
        scores = {"recall_1": self._kept(found, 1), "recall": self._kept(found, NEIGHBOURS)}
        if found.shape[1] >= NEIGHBOURS_MAX:
            scores["recall_100"] = self._kept(found, NEIGHBOURS_MAX)
        return scores

    def scores_of_vectors(self, documents: Floats, queries: Floats) -> Scores:
        """Rank by exact cosine of any vectors that stand for the set's documents and queries, and compare."""
        found = nearest_rows(documents, queries, NEIGHBOURS_MAX)
        return self.scores(found, self._found_back(documents, queries)) | self.fidelity(found)

    def scores_of_dense(self, data: EmbeddedSet) -> Scores:
        """As `scores_of_vectors` for the embeddings themselves, whose neighbours are known already."""
        return self.scores(self.nearest, self._found_back(data.documents.embeddings, data.queries.embeddings))

    def _found_back(self, documents: Floats, queries: Floats) -> Rows:
        if self.relevant is None:
            return np.zeros((0, NEIGHBOURS), np.int64)
        return nearest_rows(queries, documents[self.asking_back], NEIGHBOURS)

    def _kept(self, found: Rows, n: int) -> NDArray[np.float64]:
        return metrics.recalls(found[:, :n], self.nearest[:, :n])


def nearest_rows(documents: Floats, queries: Floats, top_n: int) -> Rows:
    """Return each query's documents by cosine, [q, top_n], fewer where there are fewer documents."""
    return metrics.dense_neighbours(documents, queries, min(top_n, len(documents)))
