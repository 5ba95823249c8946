"""Long random histories of large indexes: run with `pytest -m slow`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.index.core import code
from services.index.core.index import SparseIndex
from services.index.core.where import Not, Range
from tests.services.index.core.checked import CheckedIndex
from tests.services.index.core.data import STYLES, codes, split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def random_options(rng: np.random.Generator, k_max: int, count: int) -> dict[str, Any]:
    """Draw the options of a search."""
    options: dict[str, Any] = {"k_docs": int(rng.choice(code.levels(k_max))), "k_query": int(rng.integers(1, 257))}
    options["top_n"] = int(rng.choice([1, 10, 100, 1000]))
    options["min_score"] = rng.choice([None, 0.1, 0.5, 0.9])
    where = Range("rank", lt=int(count * rng.random() ** 4))
    options["where"] = rng.choice(np.array([None, None, where, Not(where)], object))
    options["partitions"] = [None, [1], [0, 2]][rng.integers(3)]
    return options


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_of_large_indexes(seed: int, style: str, tmp_path: Path) -> None:
    """Documents would be lost, doubled or misplaced by merges, windows and snapshots of a real size."""
    rng = np.random.default_rng([seed, STYLES.index(style)])
    hidden_dim, k_max = int(rng.choice([64, 1000, 4096, 65_536])), int(rng.choice([1, 8, 16, 32, 48]))
    drawn, queries = split(codes(rng, style, 20_000 + 6, hidden_dim, k_max), 6)
    index = CheckedIndex(hidden_dim, k_max, {"rank": "int"})
    begin = 0
    while begin < len(drawn):
        rows = slice(begin, begin + int(rng.choice([1, 50, 500, 3_000, 7_000])))
        batch, begin = drawn[rows], rows.stop
        names = [f"{number}" for number in rng.choice(30_000, len(batch), replace=False)]
        ranks = [{"rank": int(rank)} for rank in rng.integers(0, 30_000, len(batch))]
        index.upsert(names, batch, ranks, rng.integers(0, 3, len(batch)).tolist())
        index.delete([f"{number}" for number in rng.choice(30_000, int(rng.choice([1, 100, 2_000])), replace=False)])
        if rng.random() < 0.1:
            index.index.save(tmp_path / str(begin))
            index.index = SparseIndex.load(tmp_path / str(begin))
        index.check(queries, threads=(1, 8), **random_options(rng, k_max, 30_000))


@pytest.mark.parametrize("style", ["clustered", "skewed", "tied"])
def test_segments_of_many_windows(style: str) -> None:
    """Documents in the third window of a segment, or beyond, would be lost."""
    rng = np.random.default_rng(7)
    documents, queries = split(codes(rng, style, 300_000 + 5, 1024, 16), 5)
    index = CheckedIndex(1024, 16, {"rank": "int"})
    index.upsert([f"{row}" for row in range(300_000)], documents, [{"rank": row} for row in range(300_000)])
    index.delete([f"{row}" for row in range(0, 300_000, 6)])
    for _ in range(6):
        index.check(queries, threads=(1, 8), **random_options(rng, 16, 300_000))
