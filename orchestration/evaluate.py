"""How good an adapter's codes are, measured through the index that will serve them, against exact dense search."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from csr_model import Codes, CSRAdapter, metrics
from csr_model.errors import ArtifactCorrupt, InvalidVector
from orchestration.data.sets import EmbeddedSet
from orchestration.evaluate_answers import NEIGHBOURS_MAX, Answers, RankingQuality, Rows, Scores
from orchestration.evaluate_labels import Vectors, probe_hits, v_measure
from orchestration.evaluate_search import RERANKED, CodeSearch, sparse_matrix, unit
from orchestration.evaluation import Evaluation, KPair, LevelQuality, SearchQuality, suffix
from services.runtime.errors import InvalidRequest

BYTES_PER_LATENT: Final = 4
"""A stored latent: two bytes of number, two of weight."""


@dataclass(frozen=True, eq=False)
class Measured:
    """An evaluation with the scores that its means are made of.

    Attributes:
        evaluation: The means.
        scores: By the names of `Evaluation.as_metrics`, one number a query in the set's order, for comparing two
            systems on the same queries; NaN for a query without relevant documents. The back_ scores have one for
            each document that is relevant to some query, by row.
    """

    evaluation: Evaluation
    scores: Mapping[str, NDArray[np.float64]]


def evaluate(adapter: CSRAdapter, data: EmbeddedSet, ks: Sequence[KPair] | None = None) -> Evaluation:
    """Return `measure(…).evaluation`."""
    return measure(adapter, data, ks).evaluation


def measure(
    adapter: CSRAdapter, data: EmbeddedSet, ks: Sequence[KPair] | None = None, answers: Answers | None = None
) -> Measured:
    """Encode documents and queries, search at each pair of k, and compare with labels, relevance and dense search.

    What the set does not offer is not measured. Labels: 1-NN accuracy, linear probe, V-measure. Relevance: nDCG@10,
    R@n in both directions. Always: recall of dense neighbours, and what the codes cost.

    Args:
        adapter: To judge.
        data: Its queries must not have been trained on.
        ks: Pairs (k_query, k_docs): 1 … the adapter's k_limit, and one of its levels. By default `default_ks`.
        answers: Of the same data, found before; they serve any number of adapters.

    Raises:
        InvalidVector: Embeddings that the adapter cannot encode.
        InvalidRequest: A k out of range, or a set without documents or queries.
    """
    began = time.perf_counter()
    ks = default_ks(adapter.levels) if ks is None else ks
    _check(adapter, data, ks)
    answers = Answers.of(data) if answers is None else answers
    dense = answers.scores_of_dense(data)
    scores: Scores = {f"dense_{name}": values for name, values in dense.items()}
    judge = _Judge(adapter, data, answers, scores, max(k_query for k_query, _ in ks))
    searches = [judge.search(pair) for pair in ks]
    missed = _missed(adapter, data)
    both = sorted((search for search in searches if search.k_query == search.k_docs), key=lambda search: search.k_docs)
    levels = tuple(judge.level(search, missed.get(search.k_docs)) for search in both)
    dense_probe, dense_v_measure = judge.labels_told(judge.unit_documents, judge.unit_queries, "dense_linear_probe")
    evaluation = Evaluation(
        fingerprint=adapter.fingerprint,
        hidden_dim=adapter.hidden_dim,
        supervised=adapter.supervised,
        parity=_has_parity(adapter),
        documents=len(data.documents.embeddings),
        queries=len(data.queries.embeddings),
        dense=RankingQuality.of(dense),
        dense_linear_probe=dense_probe,
        dense_v_measure=dense_v_measure,
        dense_bytes_per_vector=data.documents.embeddings.shape[1] * 4,
        levels=levels,
        asymmetric=tuple(search for search in searches if search.k_query != search.k_docs),
        seconds=time.perf_counter() - began,
    )
    return Measured(evaluation, scores)


def default_ks(levels: Sequence[int]) -> list[KPair]:
    """Return each level on both sides, then thin documents under fat queries: k_max asks every smaller level."""
    return [(k, k) for k in levels] + [(levels[-1], k) for k in levels[:-1]]


def _missed(adapter: CSRAdapter, data: EmbeddedSet) -> dict[int, float]:
    try:
        return adapter.reconstruction_nmse(data.queries.embeddings)
    except InvalidVector:  # they were encoded, so each by itself is valid: all are alike
        return {}


class _Judge:
    """Codes of one set, encoded once and measured at any pair of k; adds per-query scores to `scores`."""

    def __init__(
        self, adapter: CSRAdapter, data: EmbeddedSet, answers: Answers, scores: Scores, k_query_max: int
    ) -> None:
        width = max(adapter.k_max, k_query_max)
        documents, queries = (adapter.encode(part.embeddings, width) for part in (data.documents, data.queries))
        self.unit_documents, self.unit_queries = unit(data.documents.embeddings), unit(data.queries.embeddings)
        self._hidden_dim, self._answers, self._scores = adapter.hidden_dim, answers, scores
        self._documents, self._queries = documents.prefix(adapter.k_max), queries.prefix(adapter.k_max)
        self._forward = CodeSearch.of(
            self._hidden_dim, self._documents, queries, self.unit_documents, self.unit_queries
        )
        asking = answers.asking_back
        found = slice(None) if len(asking) else slice(0)  # nobody asks: an empty index answers nobody
        self._back = CodeSearch.of(
            self._hidden_dim,
            Codes(*(part[found] for part in self._queries)),
            Codes(*(part[asking] for part in documents)),
            self.unit_queries,
            self.unit_documents[asking],
        )

    def search(self, ks: KPair) -> SearchQuality:
        """Search in both directions, plain and re-ranked."""
        hits = self._forward.hits(*ks, NEIGHBOURS_MAX)
        hits_back = self._back.hits(*ks, RERANKED)
        reranked, reranked_back = self._forward.reranked(hits), self._back.reranked(hits_back)
        return SearchQuality(
            *ks,
            hits=self._quality(hits, hits_back, suffix(ks)),
            reranked=self._quality(reranked, reranked_back, f"_reranked{suffix(ks)}"),
            exactness=self._forward.exactness(hits, *ks),
        )

    def level(self, search: SearchQuality, nmse: float | None) -> LevelQuality:
        """Measure the codes themselves at the k of a search."""
        k, rows = search.k_docs, len(self._documents.latents)
        stored, asked = self._documents.prefix(k), self._queries.prefix(k)
        usage = metrics.usage_histogram(stored, self._hidden_dim)
        linear_probe, v_measured = self.labels_told(
            sparse_matrix(stored, self._hidden_dim), sparse_matrix(asked, self._hidden_dim), f"linear_probe.k{k}"
        )
        return LevelQuality(
            k=k,
            search=search,
            linear_probe=linear_probe,
            v_measure=v_measured,
            nmse=nmse,
            dead_share=metrics.unused_share(metrics.usage_histogram(asked, self._hidden_dim)),
            posting_skew=metrics.posting_skew(usage, rows),
            bytes_per_vector=BYTES_PER_LATENT * float(usage.sum()) / rows,
        )

    def labels_told(self, documents: Vectors, queries: Vectors, name: str) -> tuple[float | None, float | None]:
        """Return linear probe and V-measure, None without labels."""
        if self._answers.labels is None:
            return None, None
        document_labels, query_labels = self._answers.labels
        self._scores[name] = probe_hits(documents, document_labels, queries, query_labels)
        return float(self._scores[name].mean()), v_measure(queries, query_labels)

    def _quality(self, found: Rows, found_back: Rows, ending: str) -> RankingQuality:
        measured = self._answers.scores(found, found_back) | self._answers.fidelity(found)
        self._scores.update({f"{name}{ending}": values for name, values in measured.items()})
        return RankingQuality.of(measured)


def _check(adapter: CSRAdapter, data: EmbeddedSet, ks: Sequence[KPair]) -> None:
    for name, part in (("documents", data.documents), ("queries", data.queries)):
        if not len(part.embeddings):
            raise InvalidRequest(f"{name}: the set {data.name} has none; at least one is needed")
    for k_query, k_docs in ks:
        if not 1 <= k_query <= adapter.k_limit:
            raise InvalidRequest(f"k_query: {k_query}; this adapter encodes 1..{adapter.k_limit} active latents")
        if k_docs not in adapter.levels:
            raise InvalidRequest(f"k_docs: {k_docs}; documents answer at {', '.join(map(str, adapter.levels))}")


def _has_parity(adapter: CSRAdapter) -> bool:
    try:
        adapter.verify_parity()
    except ArtifactCorrupt:
        return False
    return True
