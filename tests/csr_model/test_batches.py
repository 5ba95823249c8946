from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_model.batches import Neighbours, Pairs, Sampler, steps_per_epoch

PAIRS = Pairs(np.arange(30, dtype=np.int64), np.arange(100, 70, -1, dtype=np.int64))
NEIGHBOURS = Neighbours(np.arange(0, 80, 2), np.arange(40)[:, None] * 2 + np.arange(1, 6))


@st.composite
def samplers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Return the arguments of a sampler and a number of ranks that shares its batches."""
    ranks = draw(st.sampled_from([1, 2, 3, 4]))
    arguments: dict[str, Any] = {
        "rows": draw(st.integers(101, 130)),
        "row_count": 4 * ranks * draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }
    if draw(st.booleans()):
        arguments |= {"pairs": PAIRS, "pair_count": ranks * draw(st.integers(1, 3))}
    if draw(st.booleans()):
        arguments |= {"neighbours": NEIGHBOURS}
    return arguments, ranks


def passes(sampler: Sampler, number: int) -> Iterator[np.ndarray]:
    """Yield the single rows of each step of one pass."""
    steps = steps_per_epoch(sampler.rows, sampler.row_count)
    for step in range(number * steps, (number + 1) * steps):
        yield sampler.step(step).rows


@settings(max_examples=60, deadline=None)
@given(samplers(), st.integers(0, 50))
def test_ranks_share_the_batches_of_one_rank(drawn: tuple[dict[str, Any], int], step: int) -> None:
    """Two workers must learn what one would: the same rows and pairs in the same steps."""
    arguments, ranks = drawn
    alone = Sampler(**arguments).step(step)
    parts = [Sampler(**arguments, rank=rank, ranks=ranks).step(step) for rank in range(ranks)]
    assert len({part.pairs for part in parts}) == len({len(part.rows) for part in parts}) == 1
    share = parts[0].pairs
    queries = np.concatenate([part.rows[:share] for part in parts])
    documents = np.concatenate([part.rows[share : 2 * share] for part in parts])
    singles = np.concatenate([part.rows[2 * share :] for part in parts])
    count = alone.pairs
    together = sorted(zip(queries.tolist(), documents.tolist(), strict=True))
    assert together == sorted(zip(alone.rows[:count].tolist(), alone.rows[count : 2 * count].tolist(), strict=True))
    assert sorted(singles.tolist()) == alone.rows[2 * count :].tolist()


@settings(max_examples=60, deadline=None)
@given(samplers(), st.integers(0, 50))
def test_a_step_is_decided_by_its_number(drawn: tuple[dict[str, Any], int], step: int) -> None:
    """A resumed run asks for step 7 without having seen 0 to 6 and must get the same rows."""
    arguments, _ = drawn
    walked = Sampler(**arguments)
    for earlier in range(step):
        walked.step(earlier)
    jumped = Sampler(**arguments).step(step)
    assert walked.step(step).pairs == jumped.pairs
    np.testing.assert_array_equal(walked.step(step).rows, jumped.rows)


@pytest.mark.parametrize("number", [0, 2])
def test_a_pass_visits_each_row_at_most_once(number: int) -> None:
    """Rows seen twice in an epoch would weigh more; only the unfilled last batch may be missing."""
    sampler = Sampler(rows=103, row_count=10, seed=0)
    batches = list(passes(sampler, number))
    assert len(batches) == steps_per_epoch(103, 10) == 10
    assert len(np.unique(np.concatenate(batches))) == 100


def test_passes_and_seeds_differ() -> None:
    """The same order in every pass would leave the same rows out each time."""
    first = next(passes(Sampler(rows=100, row_count=10, seed=1), 0))
    assert not np.array_equal(first, next(passes(Sampler(rows=100, row_count=10, seed=1), 1)))
    assert not np.array_equal(first, next(passes(Sampler(rows=100, row_count=10, seed=2), 0)))


def test_queries_stay_with_their_documents() -> None:
    """A query beside another's document would be taught that the two belong together."""
    sampler = Sampler(rows=101, row_count=8, seed=0, pairs=PAIRS, pair_count=6)
    seen: list[int] = []
    for step in range(5):
        rows, count = sampler.step(step)
        assert (count, len(rows)) == (6, 6 + 6 + 8)
        np.testing.assert_array_equal(rows[6:12], 100 - rows[:6])
        seen += rows[:6].tolist()
    assert sorted(seen) == list(range(30))


def test_neighbours_come_with_their_anchors() -> None:
    """The neighbour loss compares rows with rows near them; of random rows few are near each other."""
    neighbours = Neighbours(np.arange(0, 80, 2), np.repeat(np.arange(1, 80, 2)[:, None], 5, axis=1))
    rows = Sampler(rows=80, row_count=16, seed=0, neighbours=neighbours).step(3).rows
    anchors = rows[rows % 2 == 0]
    assert len(rows) == 16
    assert len(set(anchors.tolist())) == 4
    assert sorted(rows[rows % 2 == 1].tolist()) == sorted(np.repeat(anchors + 1, 3).tolist())


def test_fewer_rows_than_a_batch_are_all_taken() -> None:
    """A part smaller than its share must not walk past its end and give empty batches."""
    sampler = Sampler(rows=101, row_count=8, seed=0, pairs=Pairs(PAIRS.queries[:3], PAIRS.documents[:3]), pair_count=3)
    assert sorted(sampler.step(9).rows[:3].tolist()) == [0, 1, 2]
