"""Evaluation against plain brute force written out in the test."""

from dataclasses import replace

import numpy as np
import pytest

from csr_model import CSRAdapter, fit
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluate import Evaluation, evaluate, exactness, index_of, sparse_neighbours
from orchestration.timing import time_queries
from tests.orchestration.conftest import make_config


@pytest.fixture(scope="module")
def evaluation(adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit) -> Evaluation:
    """Of the first adapter on held-out queries."""
    return evaluate(adapters[0], split.embeddings, held_out.embeddings, split.labels, held_out.labels)


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


@pytest.mark.parametrize("k", [2, 4, 8])
def test_quality_is_what_plain_search_gives(
    evaluation: Evaluation, adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit, k: int
) -> None:
    """Every table, gate and promotion would rest on wrong numbers."""
    assert split.labels is not None
    assert held_out.labels is not None
    level = next(level for level in evaluation.levels if level.k == k)
    documents, queries = (plain_codes(adapters[0], rows.embeddings, k) for rows in (split, held_out))
    sparse, dense = queries @ documents.T, unit(held_out.embeddings) @ unit(split.embeddings).T
    correct, overlap, overlap_reranked = 0, [], []
    for query, (similar, true) in enumerate(zip(sparse, dense, strict=True)):
        hits = [row for row in sorted(range(len(similar)), key=lambda row: (-similar[row], row)) if similar[row] > 0]
        nearest = set(np.argsort(-true)[:10])
        correct += bool(hits) and split.labels[hits[0]] == held_out.labels[query]
        overlap.append(len(nearest & set(hits[:10])) / 10)
        overlap_reranked.append(len(nearest & set(sorted(hits[:50], key=lambda row: -true[row])[:10])) / 10)
    # Stored weights are quantised, so two nearly equal neighbours may trade places.
    assert level.one_nn == pytest.approx(correct / 120, abs=1.01 / 120)
    assert level.recall == pytest.approx(np.mean(overlap), abs=0.01)
    assert level.recall_reranked == pytest.approx(np.mean(overlap_reranked), abs=0.01)
    assert level.dead_share == pytest.approx((queries.sum(0) == 0).mean())
    assert level.posting_skew == pytest.approx((((documents > 0).mean(0)) ** 2).sum())
    assert level.bytes_per_vector == pytest.approx(4 * (documents > 0).sum(1).mean())


def test_levels_get_better_with_k_and_dense_is_the_measure(evaluation: Evaluation) -> None:
    """A swapped level or baseline would pass unnoticed through every other check."""
    assert [level.k for level in evaluation.levels] == [2, 4, 8]
    errors = [level.nmse for level in evaluation.levels]
    assert errors == sorted(errors, reverse=True)
    assert evaluation.levels[-1].recall_reranked > evaluation.levels[0].recall
    assert evaluation.dense_one_nn is not None
    assert evaluation.dense_one_nn > 0.8
    assert evaluation.dense_bytes_per_vector == 64


def test_the_index_is_exact_and_a_wrong_one_would_show(
    evaluation: Evaluation, adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A kernel that misses hits would serve wrong answers under a perfect score."""
    assert [level.exactness for level in evaluation.levels] == [1.0, 1.0, 1.0]
    adapter = adapters[0]
    stored, asked = (adapter.encode(rows.embeddings, 8) for rows in (split, held_out))
    found = sparse_neighbours(index_of(adapter, stored), asked, 4, 10)
    assert exactness(found, stored, asked, 4, adapter.hidden_dim) == 1.0
    found[0, [0, 1]] = found[0, [1, 0]]
    assert exactness(found, stored, asked, 4, adapter.hidden_dim) == 1 - 2 / found.size


def test_supervision_and_fingerprint_come_from_the_adapter(
    evaluation: Evaluation, adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A labelled adapter would be refused for moving neighbours; a result could count for another version."""
    assert (evaluation.fingerprint, evaluation.supervised) == (adapters[0].fingerprint, False)
    labelled = fit(split.embeddings, split.labels, make_config(gamma=0.5, epochs=1)).adapter
    assert evaluate(labelled, split.embeddings, held_out.embeddings).supervised


def test_without_labels_only_neighbours_are_measured(
    adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """Teams without labels could not evaluate at all."""
    bare = evaluate(adapters[0], split.embeddings, held_out.embeddings, levels=[4])
    assert (bare.dense_one_nn, bare.levels[0].one_nn) == (None, None)
    assert bare.as_metrics().keys() == {
        f"{name}.k4"
        for name in (
            "recall",
            "recall_reranked",
            "exactness",
            "nmse",
            "dead_share",
            "posting_skew",
            "bytes_per_vector",
        )
    }


def test_an_adapter_that_encodes_differently_has_no_parity(
    adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A machine whose arithmetic differs would index codes that queries never match."""
    first, other = adapters
    wrong = CSRAdapter(
        other._autoencoder, first.manifest, first.usage, first._reference_embeddings, first._reference_codes
    )
    assert evaluate(first, split.embeddings, held_out.embeddings, levels=[8]).parity
    assert not evaluate(wrong, split.embeddings, held_out.embeddings, levels=[8]).parity


def test_every_contender_is_timed(adapters: list[CSRAdapter], split: EmbeddedSplit, held_out: EmbeddedSplit) -> None:
    """The demo would compare speeds that were never measured."""
    times = time_queries(adapters[0], split.embeddings, held_out.embeddings, levels=[2, 8])
    assert [taken.k for taken in times] == [None, 2, 8]
    assert all(taken.batched > 0 and 0 < taken.single < 1 for taken in times)


def test_metric_names_are_accepted_by_mlflow(evaluation: Evaluation) -> None:
    """Promotion would fail when it records what it measured."""
    from mlflow.utils.validation import _validate_metric_name

    names = replace(evaluation).as_metrics()
    assert len(names) == 1 + 3 * 8
    for name in names:
        _validate_metric_name(name)
