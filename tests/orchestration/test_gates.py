"""The gates, row by row, without any registry."""

from dataclasses import replace

import pytest

from orchestration.evaluate import Evaluation, LevelQuality
from orchestration.gates import judge


def level(k: int, **changes: float | None) -> LevelQuality:
    """Return a level that passes every gate, changed as the arguments say."""
    good = LevelQuality(
        k=k,
        one_nn=0.78,
        recall=0.6,
        recall_reranked=0.95,
        exactness=1.0,
        nmse=0.4,
        dead_share=0.02,
        posting_skew=0.5,
        bytes_per_vector=4.0 * k,
    )
    return replace(good, **changes)


def evaluation(*levels: LevelQuality, **changes: object) -> Evaluation:
    """Return an evaluation that passes every gate, changed as the arguments say."""
    good = Evaluation(
        fingerprint="f" * 32,
        hidden_dim=1_536,
        supervised=False,
        parity=True,
        documents=6_000,
        queries=2_000,
        dense_one_nn=0.8,
        dense_bytes_per_vector=1_536,
        levels=levels or (level(8), level(16), level(32)),
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
    bare = evaluation(level(32, one_nn=None), dense_one_nn=None)
    assert [gate.name for gate in judge(bare)] == ["parity", "index_exactness", "recall_reranked", "dead_share"]


def test_an_adapter_trained_with_labels_is_judged_without_them_too() -> None:
    """A collapsed adapter would pass unseen where neither its labels nor its neighbours are looked at."""
    lost = evaluation(level(32, one_nn=None, recall_reranked=0.3), dense_one_nn=None, supervised=True)
    assert failed(lost) == ["recall_reranked.k32"]


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
