"""What the planner does when a kernel turns out to be the wrong one."""

import numpy as np

from tests.services.index.core.checked import CheckedIndex
from tests.services.index.core.data import codes, split

ROWS = 20_000


def test_block_max_hands_over_where_too_many_blocks_can_matter() -> None:
    """Rows that block-max scored before it gave up would be lost, or come twice."""
    documents, queries = split(codes(np.random.default_rng(0), "uniform", ROWS + 3, 4096, 16), 3)
    index = CheckedIndex(4096, 16)
    index.upsert([f"{row}" for row in range(ROWS)], documents)
    assert [len(part.segment) for part in index.index.state.parts] == [ROWS]
    for query in range(3):
        index.check(queries[query : query + 1], top_n=1000, kernels=(None,))
        statistics = index.index.statistics()
        assert statistics.kernels == {"accumulate": query + 1, "block-max": 0, "direct": 0}
        assert statistics.blocks_visited == (query + 1) * (4 + 1000 // 64), "the seeds of each query"
