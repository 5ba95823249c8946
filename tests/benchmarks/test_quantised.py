from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.comparison import quantised, short_vectors
from benchmarks.comparison.outcome import KS
from benchmarks.comparison.problem import final_problem
from benchmarks.comparison.quantised import BYTES
from benchmarks.comparison.settings import Settings
from orchestration.data.sets import EmbeddedSet

NOTHING_CHOSEN = Settings(None, None, 0)


def information(rows: np.ndarray, parts: int) -> float:
    """Return the bytes that the compressed rows can hold at most: log256 of the distinct values of each part."""
    pieces = np.array_split(np.arange(rows.shape[1]), parts)
    return float(sum(np.log(len(np.unique(rows[:, piece], axis=0))) / np.log(256) for piece in pieces))


@pytest.fixture(scope="module")
def components() -> np.ndarray:
    """Many more rows than any part has values."""
    return np.random.default_rng(0).normal(size=(3_000, 64)).astype(np.float32)


@pytest.mark.parametrize("size", [16, 32])
def test_no_method_keeps_more_than_its_bytes(components: np.ndarray, size: int) -> None:
    """Equal bytes must be equal bytes: a baseline that keeps more would win unfairly, one that keeps less lose."""
    int8 = quantised._int8(components[:, :size])(components[:, :size])
    signs = quantised._signs(components)
    pq = quantised._nearest_centres(components, size, 0)(components)
    assert size * 0.9 < information(int8, size) <= size
    assert information(signs, 64) == pytest.approx(64 / 8)
    assert size * 0.9 < information(pq, size) <= size


def test_sizes_are_those_of_codes() -> None:
    """A code of k latents takes 4k bytes: a 16-bit number and a 16-bit weight each."""
    assert tuple(4 * k for k in KS) == BYTES == (16, 32, 64, 128, 256)


@pytest.mark.parametrize("run", [quantised.run_int8, quantised.run_binary, quantised.run_pq])
def test_quantised_search_finds_neighbours(run: Callable, labelled: EmbeddedSet) -> None:
    """Six clear clusters survive 16 bytes: a mistake in rotation or restoring would not find them."""
    problem = final_problem(labelled)
    outcome = run(problem, NOTHING_CHOSEN)
    assert set(outcome.rankings) == {f"{size}B" for size in BYTES}
    assert problem.scores(outcome.rankings["16B"]).mean() > 0.9


def test_float16_dimensions_take_two_bytes(labelled: EmbeddedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """PCA to 8 dimensions is the rival of 8 latents by count and of 4 latents by bytes."""
    monkeypatch.setattr(short_vectors, "DIMS", (4, 8, 16))
    rankings = short_vectors.run_pca(final_problem(labelled), NOTHING_CHOSEN).rankings
    assert set(rankings) == {"k4", "8B", "k8", "16B", "k16", "32B"}
    assert np.array_equal(rankings["k8"], rankings["16B"])
