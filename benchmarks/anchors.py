"""Whether the data sets are built right: dense and PCA baselines beside the figures measured when they were chosen.

Run as `python -m benchmarks.anchors [SET ...]`; exit code 1 if a figure is off. The figures of newsgroups20 and fashion
came from 4,000 test rows (standard error 0.6), those of debian from 29,571 descriptions chosen by another rule and
5,000 other queries; between samples of 5,000 queries PCA-16 varies from 14.7 to 15.6.
"""

import argparse
import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from csr_model import metrics
from csr_model.baselines.pca import PCA
from orchestration.data.catalog import load
from orchestration.data.sets import EmbeddedSet
from services.runtime.settings import load_settings

DIMS: Final = (8, 16, 32, 64, 128)
EXPECTED: Final = {
    "newsgroups20": (78.7, 52.7, 68.7, 75.5, 77.5, 78.2),
    "semanlink": (42.3, 6.3, 14.1, 21.7, 30.4, 37.9),
    "debian": (66.5, 4.0, 16.2, 36.1, 53.1, 62.0),
    "fashion": (85.2, 73.4, 79.7, 81.8, 83.6, 84.0),
}
"""Set → 1-NN accuracy in %, or nDCG@10 × 100 where there is relevance: dense, then PCA to each of DIMS."""
TOLERANCES: Final = {"newsgroups20": 1.0, "semanlink": 1.0, "debian": 1.5, "fashion": 1.0}
"""Points that a figure may be off."""
TOP_N: Final = 10

Floats = NDArray[np.float32]


def measured(data: EmbeddedSet) -> list[float]:
    """Return the figures of a set in the order of EXPECTED; PCA is fitted to all rows that may be learned from."""
    pca = PCA.fit(data.train.embeddings, max(DIMS))
    documents, queries = (pca.transform(split.embeddings) for split in (data.documents, data.queries))
    dense = _quality(data, data.documents.embeddings, data.queries.embeddings)
    return [dense, *(_quality(data, documents[:, :dims], queries[:, :dims]) for dims in DIMS)]


def main() -> None:
    """Measure the sets named on the command line, or all, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(EXPECTED)}; all by default")
    console = Console()
    table = Table("set", "", "dense", *(f"PCA-{dims}" for dims in DIMS))
    off = []
    for name in parser.parse_args().sets or EXPECTED:
        figures = measured(load(name, load_settings().cache_dir, console))
        table.add_row(name, "measured", *(f"{figure:.1f}" for figure in figures))
        table.add_row("", "expected", *(f"{figure:.1f}" for figure in EXPECTED[name]), end_section=True)
        distance = max(abs(figure - wanted) for figure, wanted in zip(figures, EXPECTED[name], strict=True))
        if distance > TOLERANCES[name]:
            off.append(f"{name} by {distance:.1f}")
    console.print(table)
    if off:
        sys.exit(f"off: {', '.join(off)}")


def _quality(data: EmbeddedSet, documents: Floats, queries: Floats) -> float:
    ranking = metrics.dense_neighbours(documents, queries, TOP_N)
    if data.relevant is not None:
        return 100 * float(np.nanmean(metrics.ndcgs(ranking, data.relevant, TOP_N)))
    assert data.documents.labels is not None
    assert data.queries.labels is not None
    return 100 * metrics.one_nn_accuracy(ranking, data.documents.labels, data.queries.labels)


if __name__ == "__main__":
    main()
