import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.comparison.statistics import paired_difference


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-3, 3))
def test_interval_moves_with_the_scores(differences: list[float], shift: float) -> None:
    """Adding a constant to one method moves mean and interval by it and nothing else."""
    scores, zero = np.array(differences), np.zeros(len(differences))
    before, after = paired_difference(scores, zero), paired_difference(scores + shift, zero)
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.low == pytest.approx(before.low + shift, abs=1e-9)
    assert after.high == pytest.approx(before.high + shift, abs=1e-9)
    assert before.low <= before.high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_method_ties_with_itself(scores: list[float]) -> None:
    """No difference is never above."""
    difference = paired_difference(np.array(scores), np.array(scores))
    assert difference == (0, 0, 0)
    assert difference.verdict == "tie"


def test_verdicts() -> None:
    """A method that wins every query is above, its rival below, and noise is a tie."""
    random = np.random.default_rng(0)
    scores, noise = random.random(400), random.normal(size=400)
    assert paired_difference(scores + 0.1, scores).verdict == "above"
    assert paired_difference(scores, scores + 0.1).verdict == "below"
    assert paired_difference(scores + noise - noise.mean(), scores).verdict == "tie"


def test_pairing_removes_what_queries_share() -> None:
    """Queries differ far more than methods do: an unpaired interval would call a clear win a tie."""
    random = np.random.default_rng(1)
    scores = random.normal(0, 10, size=500)
    better = scores + 0.2 + random.normal(0, 0.5, size=500)
    assert paired_difference(better, scores).verdict == "above"
    assert paired_difference(random.permutation(better), scores).verdict == "tie"


def test_interval_covers_the_truth() -> None:
    """A 95 % interval that holds the true mean much less often would call ties wins."""
    covered = 0
    for seed in range(100):
        sample = np.random.default_rng(seed).normal(0.3, 1, size=100)
        difference = paired_difference(sample, np.zeros(100), seed)
        covered += difference.low <= 0.3 <= difference.high
    assert 88 <= covered <= 100


def test_other_queries_are_refused() -> None:
    """Scores of different queries must not be subtracted."""
    with pytest.raises(ValueError, match="must be"):
        paired_difference(np.zeros(3), np.zeros(4))
