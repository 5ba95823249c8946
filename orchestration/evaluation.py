"""What an evaluation says: numbers and their names, measured by orchestration.evaluate."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from orchestration.evaluate_answers import RankingQuality

Headline: TypeAlias = Literal["ndcg", "one_nn", "recall"]

QUALITY_NAMES: Final[dict[Headline, str]] = {
    "ndcg": "nDCG@10",
    "one_nn": "1-NN accuracy",
    "recall": "Recall of dense neighbours@10",
}
"""For people."""

KPair: TypeAlias = tuple[int, int]
"""(k_query, k_docs)."""


@dataclass(frozen=True)
class SearchQuality:
    """Search with k_query latents of each query and k_docs of each document.

    Attributes:
        hits: Of the index's hits.
        reranked: Of the 50 best hits, re-ranked with the embeddings.
        exactness: Share of the index's hits that plain brute force over the same codes puts in the same place;
            1.0 unless the index is broken.
    """

    k_query: int
    k_docs: int
    hits: RankingQuality
    reranked: RankingQuality
    exactness: float


@dataclass(frozen=True)
class LevelQuality:
    """Quality at one k, on both sides.

    Attributes:
        k: Active latents of queries and documents.
        search: With this k on both sides.
        linear_probe: Accuracy of a logistic regression on document codes over query codes; None without labels.
        v_measure: Of a clustering of the query codes into as many clusters as labels; None without labels.
        nmse: Σ‖x' − x̂‖² / Σ‖x' − x̄'‖² over the queries' embeddings; None where these are all alike.
        dead_share: Share of latents that no query uses.
        posting_skew: Σ p_j² over documents, p_j the share of them under latent j: postings met per query and
            document; k²/h if use were even.
        bytes_per_vector: Of a stored code, mean over documents.
    """

    k: int
    search: SearchQuality
    linear_probe: float | None
    v_measure: float | None
    nmse: float | None
    dead_share: float
    posting_skew: float
    bytes_per_vector: float


@dataclass(frozen=True)
class Evaluation:
    """One adapter on one set of documents and held-out queries.

    Attributes:
        fingerprint: Of the adapter.
        hidden_dim: Number of its latents.
        supervised: Trained with labels or pairs; its codes then are not meant to keep dense neighbours.
        parity: The adapter encodes its reference embeddings here as it did where it was trained.
        documents: Number of documents.
        queries: Number of queries.
        dense: Of exact dense search.
        dense_linear_probe: As a level's, on the embeddings.
        dense_v_measure: As a level's, on the embeddings.
        dense_bytes_per_vector: Of a float32 embedding.
        levels: By k ascending; those of the adapter's levels that were asked for.
        asymmetric: Searches with another k on each side, in the order asked for.
        seconds: That all of this took.
    """

    fingerprint: str
    hidden_dim: int
    supervised: bool
    parity: bool
    documents: int
    queries: int
    dense: RankingQuality
    dense_linear_probe: float | None
    dense_v_measure: float | None
    dense_bytes_per_vector: int
    levels: tuple[LevelQuality, ...]
    asymmetric: tuple[SearchQuality, ...]
    seconds: float

    @property
    def headline(self) -> Headline:
        """The field of RankingQuality that says most about this set: relevance, else labels, else dense neighbours."""
        if self.dense.ndcg is not None:
            return "ndcg"
        return "recall" if self.dense.one_nn is None else "one_nn"

    def as_metrics(self) -> dict[str, float]:
        """Return every number by name; what was not measured is left out.

        `ndcg.k32` is k = 32 on both sides, `ndcg.q64.d8` k_query = 64 with k_docs = 8; `ndcg_reranked.k32` and
        `dense_ndcg` likewise.
        """
        values: dict[str, float | None] = {f"dense_{name}": value for name, value in self.dense.known().items()}
        values |= {"dense_linear_probe": self.dense_linear_probe, "dense_v_measure": self.dense_v_measure}
        for level in self.levels:
            measured = {name: value for name, value in vars(level).items() if name not in ("k", "search")}
            values |= {f"{name}.k{level.k}": value for name, value in measured.items()}
        for search in (*(level.search for level in self.levels), *self.asymmetric):
            ending = suffix((search.k_query, search.k_docs))
            values |= {f"{name}{ending}": value for name, value in search.hits.known().items()}
            values |= {f"{name}_reranked{ending}": value for name, value in search.reranked.known().items()}
            values[f"exactness{ending}"] = search.exactness
        values["evaluation_seconds"] = self.seconds
        return {name: value for name, value in values.items() if value is not None}


def suffix(ks: KPair) -> str:
    """Return what ends the names of metrics at these k: `.k32`, or `.q64.d8` where the sides differ."""
    k_query, k_docs = ks
    return f".k{k_docs}" if k_query == k_docs else f".q{k_query}.d{k_docs}"
