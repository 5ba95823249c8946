"""Evaluation against plain brute force written out in the test."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import v_measure_score

from csr_model import CSRAdapter, fit
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluate import Measured, default_ks, evaluate, measure
from orchestration.evaluate_answers import Answers
from orchestration.evaluate_baselines import pca_quality
from orchestration.evaluate_search import exactness, index_of, sparse_neighbours
from orchestration.timing import time_queries
from services.runtime.errors import InvalidRequest
from tests.orchestration.conftest import make_config, make_split


@pytest.fixture(scope="module")
def labelled(split: EmbeddedSplit, held_out: EmbeddedSplit) -> EmbeddedSet:
    """Training rows are searched, labels decide."""
    return EmbeddedSet("labelled", split, None, split, held_out, None)


@pytest.fixture(scope="module")
def judged(split: EmbeddedSplit, held_out: EmbeddedSplit) -> EmbeddedSet:
    """Query i is relevant to documents i and i + 1 (of 60) and, if even, to 2i; the last query to nothing."""
    texts = replace(held_out, labels=None)
    documents = replace(split, labels=None)
    near = [(query, row) for query in range(119) for row in (query % 60, query % 60 + 1)]
    relevant = np.array(near + [(query, 2 * query) for query in range(62, 119, 2)], np.int64)
    return EmbeddedSet("judged", documents, None, documents, texts, relevant)


@pytest.fixture(scope="module")
def by_label(adapters: list[CSRAdapter], labelled: EmbeddedSet) -> Measured:
    """The first adapter on the set with labels."""
    return measure(adapters[0], labelled)


@pytest.fixture(scope="module")
def by_relevance(adapters: list[CSRAdapter], judged: EmbeddedSet) -> Measured:
    """The first adapter on the set with relevance, also with more latents in the query than any level."""
    return measure(adapters[0], judged, [(4, 4), (8, 2), (20, 4)])


def plain_codes(adapter: CSRAdapter, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return codes as dense rows of unit length."""
    latents, weights = adapter.encode(embeddings, k)
    dense = np.zeros((len(embeddings), adapter.hidden_dim))
    for row, (where, what) in enumerate(zip(latents, weights, strict=True)):
        for latent, weight in zip(where, what, strict=True):
            dense[row, latent] += weight
    return dense


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length in double precision."""
    return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def plain_hits(similarities: np.ndarray) -> list[list[int]]:
    """Return each query's documents with a positive similarity, best first."""
    return [[int(row) for row in np.argsort(-line, kind="stable") if line[row] > 0] for line in similarities]


@pytest.mark.parametrize("k", [2, 4, 8])
def test_quality_is_what_plain_search_gives(
    by_label: Measured, adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit, k: int
) -> None:
    """Every table, gate and promotion would rest on wrong numbers."""
    assert split.labels is not None
    assert held_out.labels is not None
    level = next(level for level in by_label.evaluation.levels if level.k == k)
    documents, queries = (plain_codes(adapters[0], rows.embeddings, k) for rows in (split, held_out))
    true = unit(held_out.embeddings) @ unit(split.embeddings).T
    found = plain_hits(queries @ documents.T)
    correct, overlap, overlap_100, overlap_reranked = 0, [], [], []
    for query, hits in enumerate(found):
        nearest = list(np.argsort(-true[query]))
        correct += bool(hits) and split.labels[hits[0]] == held_out.labels[query]
        overlap.append(len(set(nearest[:10]) & set(hits[:10])) / 10)
        overlap_100.append(len(set(nearest[:100]) & set(hits[:100])) / 100)
        reranked = sorted(hits[:50], key=lambda row: -true[query, row])[:10]
        overlap_reranked.append(len(set(nearest[:10]) & set(reranked)) / 10)
    hits, reranked = level.search.hits, level.search.reranked
    # Stored weights are quantised, so two nearly equal neighbours may trade places.
    assert hits.one_nn == pytest.approx(correct / 120, abs=1.01 / 120)
    assert hits.recall == pytest.approx(np.mean(overlap), abs=0.01)
    assert hits.recall_100 == pytest.approx(np.mean(overlap_100), abs=0.01)
    assert reranked.recall == pytest.approx(np.mean(overlap_reranked), abs=0.01)
    assert reranked.recall_100 is None
    assert level.dead_share == pytest.approx((queries.sum(0) == 0).mean())
    assert level.posting_skew == pytest.approx((((documents > 0).mean(0)) ** 2).sum())
    assert level.bytes_per_vector == pytest.approx(4 * (documents > 0).sum(1).mean())


@pytest.mark.parametrize(("k_query", "k_docs", "ending"), [(4, 4, ".k4"), (8, 2, ".q8.d2"), (20, 4, ".q20.d4")])
def test_relevance_is_judged_in_both_directions(
    by_relevance: Measured, adapters: list[CSRAdapter], judged: EmbeddedSet, k_query: int, k_docs: int, ending: str
) -> None:
    """Retrieval tables would be wrong, above all where the two sides have different k."""
    assert judged.relevant is not None
    relevant = {(int(query), int(row)) for query, row in judged.relevant}
    sides = (judged.documents.embeddings, judged.queries.embeddings)
    (documents, queries), (documents_fat, queries_fat) = (
        [plain_codes(adapters[0], rows, k) for rows in sides] for k in (k_docs, k_query)
    )
    gains = [1 / math.log2(place + 2) for place in range(10)]
    ndcgs, recalls = [], []
    for query, hits in enumerate(plain_hits(queries_fat @ documents.T)[:119]):
        wanted = {row for asked, row in relevant if asked == query}
        gain = sum(gains[place] for place, row in enumerate(hits[:10]) if row in wanted)
        ndcgs.append(gain / sum(gains[: len(wanted)]))
        recalls.append(len(wanted & set(hits[:5])) / len(wanted))
    back = plain_hits(documents_fat @ queries.T)
    asking = sorted({row for _, row in relevant})
    wanted_by = {row: {query for query, found in relevant if found == row} for row in asking}
    backs = [len(wanted_by[row] & set(back[row][:10])) / len(wanted_by[row]) for row in asking]
    scores, means = by_relevance.scores, by_relevance.evaluation.as_metrics()
    assert np.isclose(scores[f"ndcg{ending}"][:119], ndcgs).mean() > 0.97  # nearly equal neighbours may trade places
    assert np.isnan(scores[f"ndcg{ending}"][119])
    assert means[f"ndcg{ending}"] == pytest.approx(np.mean(ndcgs), abs=0.005)
    assert means[f"relevant_recall_5{ending}"] == pytest.approx(np.mean(recalls), abs=0.01)
    assert means[f"back_recall_10{ending}"] == pytest.approx(np.mean(backs), abs=0.01)
    assert means[f"exactness{ending}"] == 1.0


def test_reranking_by_relevance_and_the_dense_line_agree_where_all_is_reranked(
    adapters: list[CSRAdapter], judged: EmbeddedSet
) -> None:
    """Re-ranked columns could come from other hits or other vectors than those that a search would use."""
    few, pairs = 40, judged.relevant
    assert pairs is not None
    documents = replace(judged.documents, embeddings=judged.documents.embeddings[:few])
    small = replace(judged, documents=documents, relevant=pairs[pairs[:, 1] < few])
    evaluation = evaluate(adapters[0], small, [(8, 8)])
    reranked, dense = evaluation.levels[0].search.reranked, evaluation.dense
    assert reranked.recall_1 is not None
    assert reranked.recall_1 > 0.95  # a hit must share a latent
    assert reranked.ndcg == pytest.approx(dense.ndcg, abs=0.02)
    assert reranked.back_recall_10 == pytest.approx(dense.back_recall_10, abs=0.1)


def test_means_are_those_of_the_scores(by_label: Measured, by_relevance: Measured) -> None:
    """A bootstrap over queries would judge other numbers than the tables show."""
    for measured in (by_label, by_relevance):
        values = measured.evaluation.as_metrics()
        assert measured.scores.keys() <= values.keys()
        for name, scores in measured.scores.items():
            assert values[name] == pytest.approx(np.nanmean(scores)), name
    assert by_label.scores["one_nn.k4"].shape == by_label.scores["linear_probe.k4"].shape == (120,)


def test_levels_get_better_with_k_and_dense_is_the_measure(by_label: Measured) -> None:
    """A swapped level or baseline would pass unnoticed through every other check."""
    evaluation = by_label.evaluation
    assert [level.k for level in evaluation.levels] == [2, 4, 8]
    assert [(search.k_query, search.k_docs) for search in evaluation.asymmetric] == [(8, 2), (8, 4)]
    errors = [level.nmse or 0.0 for level in evaluation.levels]
    assert all(errors)
    assert errors == sorted(errors, reverse=True)
    first, last = evaluation.levels[0].search, evaluation.levels[-1].search
    assert last.reranked.known()["recall"] > first.hits.known()["recall"]
    assert evaluation.asymmetric[1].hits.known()["recall"] > evaluation.levels[1].search.hits.known()["recall"]
    assert evaluation.dense.known()["one_nn"] > 0.8
    assert evaluation.dense_bytes_per_vector == 64
    assert 0 < evaluation.seconds < 300


def test_labels_are_told_from_codes(by_label: Measured, held_out: EmbeddedSplit) -> None:
    """Probe and clusters that look at other rows or labels would be near chance, a twelfth."""
    evaluation = by_label.evaluation
    assert evaluation.dense_linear_probe is not None
    assert evaluation.dense_v_measure is not None
    for level in evaluation.levels[1:]:
        assert level.linear_probe is not None
        assert level.v_measure is not None
        assert 0.6 < level.linear_probe <= 1
        assert 0.4 < level.v_measure <= 1
    assert evaluation.dense_linear_probe > 0.8
    assert held_out.labels is not None
    shuffled = np.random.default_rng(0).permutation(held_out.labels)
    assert evaluation.dense_v_measure > 2 * v_measure_score(held_out.labels, shuffled)


def test_the_index_is_exact_and_a_wrong_one_would_show(
    by_label: Measured, adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A kernel that misses hits would serve wrong answers under a perfect score."""
    evaluation = by_label.evaluation
    searches = [*(level.search for level in evaluation.levels), *evaluation.asymmetric]
    assert [search.exactness for search in searches] == [1.0] * 5
    adapter = adapters[0]
    stored, asked = (adapter.encode(rows.embeddings, 8) for rows in (split, held_out))
    found = sparse_neighbours(index_of(adapter.hidden_dim, stored), asked, 4, 2, 10)
    assert exactness(found, stored, asked, 4, 2, adapter.hidden_dim) == 1.0
    assert exactness(found, stored, asked, 4, 4, adapter.hidden_dim) < 1.0
    found[0, [0, 1]] = found[0, [1, 0]]
    assert exactness(found, stored, asked, 4, 2, adapter.hidden_dim) == 1 - 2 / found.size


def test_supervision_and_fingerprint_come_from_the_adapter(
    by_label: Measured, adapters: list[CSRAdapter], labelled: EmbeddedSet
) -> None:
    """A labelled adapter would be refused for moving neighbours; a result could count for another version."""
    evaluation = by_label.evaluation
    assert (evaluation.fingerprint, evaluation.supervised) == (adapters[0].fingerprint, False)
    split = labelled.train
    supervised = fit(split.embeddings, split.labels, config=make_config(gamma_labels=0.5, epochs=1)).adapter
    assert evaluate(supervised, labelled, [(4, 4)]).supervised


def test_what_a_set_does_not_offer_is_not_measured(adapters: list[CSRAdapter], judged: EmbeddedSet) -> None:
    """Teams without labels or relevance could not evaluate at all."""
    bare = evaluate(adapters[0], replace(judged, relevant=None), [(4, 4)])
    ranking = {"recall_1", "recall", "recall_1_reranked", "recall_reranked", "recall_100", "exactness"}
    codes = {"nmse", "dead_share", "posting_skew", "bytes_per_vector"}
    assert bare.as_metrics().keys() == {f"{name}.k4" for name in ranking | codes} | {"evaluation_seconds"}
    assert bare.headline == "recall"
    nothing_relevant = replace(judged, relevant=np.zeros((0, 2), np.int64))
    assert evaluate(adapters[0], nothing_relevant, [(4, 4)]).headline == "recall"


def test_few_rows_and_one_label_are_enough(adapters: list[CSRAdapter]) -> None:
    """A first try with a handful of rows would end in a stack trace of a library."""
    documents, queries = make_split(7, seed=3), make_split(1, seed=4)
    tiny = EmbeddedSet("tiny", documents, None, documents, queries, None)
    evaluation = evaluate(adapters[0], tiny)
    assert evaluation.dense.one_nn in (0.0, 1.0)
    assert evaluation.levels[0].v_measure == 1.0
    assert evaluation.levels[0].nmse is None
    alike = replace(documents, labels=np.full(7, 5))
    one_label = replace(tiny, train=alike, documents=alike, queries=replace(queries, labels=np.array([5])))
    assert evaluate(adapters[0], one_label, [(8, 8)]).levels[0].linear_probe == 1.0


def test_what_cannot_be_measured_is_refused_by_name(adapters: list[CSRAdapter], labelled: EmbeddedSet) -> None:
    """People would see an error from inside the index, after minutes of encoding."""
    with pytest.raises(InvalidRequest, match=r"k_docs: 3; documents answer at 2, 4, 8"):
        evaluate(adapters[0], labelled, [(4, 3)])
    with pytest.raises(InvalidRequest, match=r"k_query: 33; this adapter encodes 1\.\.32"):
        evaluate(adapters[0], labelled, [(33, 4)])
    empty = replace(labelled.queries, embeddings=labelled.queries.embeddings[:0])
    with pytest.raises(InvalidRequest, match="queries: the set labelled has none"):
        evaluate(adapters[0], replace(labelled, queries=empty))


def test_an_adapter_that_encodes_differently_has_no_parity(adapters: list[CSRAdapter], labelled: EmbeddedSet) -> None:
    """A machine whose arithmetic differs would index codes that queries never match."""
    first, other = adapters
    wrong = CSRAdapter(
        other._autoencoder, first.manifest, first.usage, first._reference_embeddings, first._reference_codes
    )
    assert evaluate(first, labelled, [(8, 8)]).parity
    assert not evaluate(wrong, labelled, [(8, 8)]).parity


def test_pca_is_fitted_to_training_rows_and_ends_in_the_dense_line(
    by_label: Measured, by_relevance: Measured, labelled: EmbeddedSet, judged: EmbeddedSet
) -> None:
    """The picture would show a line to beat that is not PCA's."""
    quality = pca_quality(labelled, [2, 4, 16, 32], Answers.of(labelled))
    assert list(quality) == [2, 4, 16]  # embeddings have 16 dimensions
    assert quality[2].known()["one_nn"] < quality[4].known()["one_nn"] < quality[16].known()["one_nn"] + 0.05
    assert quality[16].known()["recall"] > 0.8  # centred, and otherwise turned only
    relevance = pca_quality(judged, [16], Answers.of(judged))[16]
    assert relevance.ndcg == pytest.approx(by_relevance.evaluation.dense.ndcg, abs=0.05)
    assert pca_quality(labelled, [64], Answers.of(labelled)) == {}


def test_every_contender_is_timed(adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit) -> None:
    """The demo would compare speeds that were never measured."""
    times = time_queries(adapters[0], split.embeddings, held_out.embeddings, levels=[2, 8])
    assert [taken.k for taken in times] == [None, 2, 8]
    assert all(taken.batched > 0 and 0 < taken.single < 1 for taken in times)


def test_metric_names_are_accepted_by_mlflow(by_label: Measured, by_relevance: Measured) -> None:
    """Promotion would fail when it records what it measured, or lose numbers that share a name."""
    from mlflow.utils.validation import _validate_metric_name

    names = by_label.evaluation.as_metrics()
    assert len(names) == 3 + 3 * 6 + 5 * 8 + 1
    assert {"one_nn.k8", "recall.k8", "recall_reranked.k8", "one_nn.q8.d2", "dense_one_nn"} <= names.keys()
    assert {
        "ndcg_reranked.q20.d4",
        "back_recall_1.k4",
        "dense_back_recall_5",
    } <= by_relevance.evaluation.as_metrics().keys()
    for name in names:
        _validate_metric_name(name)


def test_default_ks_are_levels_and_thin_documents() -> None:
    """What `csr evaluate` shows without options would miss the combination that costs nothing."""
    assert default_ks((4, 8, 16)) == [(4, 4), (8, 8), (16, 16), (16, 4), (16, 8)]
