"""Pictures hold the numbers they were given, whatever these are."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from orchestration import pictures

KS = (4, 8, 16)


def words(figure: Figure) -> str:
    """Return every text next to the lines."""
    return " | ".join(text.get_text() for text in figure.axes[0].texts)


def lines(figure: Figure) -> list[list[float]]:
    """Return the heights of each line."""
    return [[float(value) for value in line.get_ydata()] for line in figure.axes[0].get_lines()]


def test_quality_has_a_line_for_each_contender() -> None:
    """The picture would compare codes with something else than it says."""
    codes, pca, thin = (dict(zip(KS, values, strict=True)) for values in ((0.3, 0.4, 0.5), (0.1, 0.2, 0.3), (0, 0, 0)))
    del thin[16]
    figure = pictures.quality_by_k("nDCG@10", codes, pca, 0.6, thin)
    assert lines(figure) == [[0.6, 0.6], [0.3, 0.4, 0.5], [0.0, 0.0], [0.1, 0.2, 0.3]]
    assert "dense embeddings: 60 %" in words(figure)
    assert "codes: 50 %" in words(figure)
    assert "PCA: 30 %" in words(figure)
    assert "queries at k = 16" in words(figure)


def test_labels_do_not_lie_on_each_other() -> None:
    """Where lines end close together nobody could read their names."""
    figure = pictures.quality_by_k("1-NN accuracy", {8: 0.8}, {8: 0.8}, 0.8)
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert len(heights) == 3
    assert min(np.diff(heights)) > 0
    low, high = figure.axes[0].get_ylim()
    assert low <= heights[0]
    assert heights[-1] <= high, "names would meet the title"


def test_usage_is_sorted_and_counts_the_unused() -> None:
    """Dead latents would be invisible on a log scale."""
    figure = pictures.usage_histogram(np.array([5, 0, 10, 0, 1]), 10)
    assert lines(figure)[0] == [1.0, 0.5, 0.1]
    assert "2 unused (40 %)" in words(figure)
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    "figure",
    [
        pictures.quality_by_k("Recall", {4: 0.0}, {}, 1.0),
        pictures.usage_histogram(np.zeros(8, np.int64), 0),
        pictures.usage_histogram(np.full(3, 7), 7),
        pictures.dead_share_by_epoch([]),
        pictures.dead_share_by_epoch([0.0]),
        pictures.dead_share_by_epoch([0.5] * 200),
    ],
)
def test_extreme_numbers_are_drawn(figure: Figure) -> None:
    """A training that went wrong, or had one epoch, would lose its run to a picture."""
    assert pictures.as_png(figure).startswith(b"\x89PNG")
