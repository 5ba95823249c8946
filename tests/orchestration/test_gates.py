"""The gates, row by row, without any registry."""

from dataclasses import replace

import pytest

from orchestration.evaluate_answers import RankingQuality
from orchestration.evaluation import Evaluation, LevelQuality, SearchQuality
from orchestration.gates import judge


def level(
    k: int,
    one_nn: float | None = 0.78,
    ndcg: float | None = None,
    recall: float = 0.6,
    recall_reranked: float = 0.95,
    exactness: float = 1.0,
    dead_share: float = 0.02,
) -> LevelQuality:
    """Return a level that passes every gate, changed as the arguments say."""
    return LevelQuality(
        k=k,
        search=SearchQuality(
            k_query=k,
            k_docs=k,
            hits=RankingQuality(one_nn=one_nn, ndcg=ndcg, recall_1=recall, recall=recall, recall_100=recall),
            reranked=RankingQuality(one_nn=one_nn, ndcg=ndcg, recall_1=recall_reranked, recall=recall_reranked),
            exactness=exactness,
        ),
        linear_probe=None if one_nn is None else 0.8,
        v_measure=None if one_nn is None else 0.5,
        nmse=0.4,
        dead_share=dead_share,
        posting_skew=0.5,
        bytes_per_vector=4.0 * k,
    )


def evaluation(*levels: LevelQuality, dense: RankingQuality | None = None, **changes: object) -> Evaluation:
    """Return an evaluation that passes every gate, changed as the arguments say."""
    good = Evaluation(
        fingerprint="f" * 32,
        hidden_dim=1_536,
        supervised=False,
        parity=True,
        documents=6_000,
        queries=2_000,
        dense=dense or RankingQuality(one_nn=0.8),
        dense_linear_probe=0.82,
        dense_v_measure=0.55,
        dense_bytes_per_vector=1_536,
        levels=levels or (level(8), level(16), level(32)),
        asymmetric=(),
        seconds=4.0,
    )
    return replace(good, **changes)


def failed(challenger: Evaluation, champion: Evaluation | None = None) -> list[str]:
    """Return the names of the gates that fail."""
    return [gate.key for gate in judge(challenger, champion) if not gate.passed]


def test_a_good_first_version_passes_every_gate() -> None:
    """Nothing could ever be promoted."""
    gates = judge(evaluation())
    assert [gate.key for gate in gates] == [
        "parity",
        "index_exactness",
        "one_nn_of_dense.k8",
        "one_nn_of_dense.k16",
        "one_nn_of_dense.k32",
        "recall_reranked.k32",
        "dead_share.k32",
    ]
    assert all(gate.passed for gate in gates)


@pytest.mark.parametrize(
    ("challenger", "expected"),
    [
        (evaluation(parity=False), ["parity"]),
        (evaluation(level(8, exactness=0.999), level(32)), ["index_exactness"]),
        (evaluation(level(8, one_nn=0.67)), ["one_nn_of_dense.k8"]),
        (evaluation(level(16, one_nn=0.71)), ["one_nn_of_dense.k16"]),
        (evaluation(level(32, one_nn=0.743)), ["one_nn_of_dense.k32"]),
        (evaluation(level(32, one_nn=float("nan"))), ["one_nn_of_dense.k32"]),
        (evaluation(level(32, recall_reranked=0.79)), ["recall_reranked.k32"]),
        (evaluation(level(32, dead_share=0.31)), ["dead_share.k32"]),
    ],
)
def test_each_floor_stops_a_version(challenger: Evaluation, expected: list[str]) -> None:
    """A version with one bad property would serve."""
    assert failed(challenger) == expected


def test_floors_themselves_are_good_enough() -> None:
    """The issue's bar, 93 % of dense at k = 32, would fail a version that reaches it."""
    assert failed(evaluation(level(32, one_nn=0.7441, recall_reranked=0.8, dead_share=0.3))) == []


def test_dense_overlap_is_not_asked_of_an_adapter_trained_with_labels() -> None:
    """Labels move neighbours on purpose; the best adapters would be refused."""
    moved = level(32, recall=0.2, recall_reranked=0.3)
    assert failed(evaluation(moved, supervised=True)) == []
    assert failed(evaluation(moved, supervised=True), evaluation()) == ["levels_kept"]


def test_dead_share_needs_enough_queries() -> None:
    """With few queries most latents look unused whatever the adapter."""
    assert failed(evaluation(level(32, dead_share=0.9), queries=100)) == []


def test_sets_without_labels_are_judged_on_neighbours_alone() -> None:
    """Promotion would crash, or pass blindly, where there are no labels."""
    bare = evaluation(level(32, one_nn=None), dense=RankingQuality())
    assert [gate.name for gate in judge(bare)] == ["parity", "index_exactness", "recall_reranked", "dead_share"]


def test_an_adapter_trained_with_labels_is_judged_without_them_too() -> None:
    """A collapsed adapter would pass unseen where neither its labels nor its neighbours are looked at."""
    lost = evaluation(level(32, one_nn=None, recall_reranked=0.3), dense=RankingQuality(), supervised=True)
    assert failed(lost) == ["recall_reranked.k32"]


@pytest.mark.parametrize(("k", "too_low"), [(8, 0.29), (16, 0.38), (32, 0.44)])
def test_sets_with_relevance_have_floors_of_their_own(k: int, too_low: float) -> None:
    """An adapter for retrieval that finds nothing would serve, or its moved neighbours would be held against it."""
    bars = {"dense": RankingQuality(ndcg=0.6), "supervised": True}
    good = level(k, one_nn=None, ndcg=too_low + 0.02, recall_reranked=0.5)
    assert [gate.key for gate in judge(evaluation(good, **bars))][2:] == [f"ndcg_of_dense.k{k}", f"dead_share.k{k}"]
    assert failed(evaluation(good, **bars)) == []
    assert failed(evaluation(level(k, one_nn=None, ndcg=too_low), **bars)) == [f"ndcg_of_dense.k{k}"]
    worse = evaluation(level(k, one_nn=None, ndcg=too_low + 0.02), **bars)
    assert failed(worse, evaluation(level(k, one_nn=None, ndcg=too_low + 0.04), **bars)) == [f"ndcg_of_champion.k{k}"]


def test_an_index_that_is_wrong_between_levels_shows() -> None:
    """Queries with more latents than documents take another way through the index, which could be broken alone."""
    broken = replace(level(8).search, k_query=32, exactness=0.99)
    assert failed(evaluation(asymmetric=(broken,))) == ["index_exactness"]


def test_a_challenger_may_lose_a_little_to_the_champion_but_no_more() -> None:
    """Quality would drift down promotion by promotion, or noise would block every one."""
    champion = evaluation(level(16), level(32))
    assert failed(evaluation(level(16, one_nn=0.771), level(32, recall_reranked=0.931)), champion) == []
    worse = evaluation(level(16, one_nn=0.769), level(32, recall_reranked=0.929))
    assert failed(worse, champion) == ["one_nn_of_champion.k16", "recall_reranked_of_champion.k32"]


def test_a_challenger_must_answer_at_every_level_of_the_champion() -> None:
    """Callers who ask for a level that vanished would get errors after a promotion."""
    gate = next(gate for gate in judge(evaluation(level(32)), evaluation()) if gate.name == "levels_kept")
    assert (gate.value, gate.threshold, gate.passed) == (1.0, 3.0, False)
    assert gate.needed == "at least 3"
