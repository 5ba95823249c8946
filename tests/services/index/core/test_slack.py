"""A negative control: bounds that are rounded the other way make wrong answers, and these tests see them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.index.core.planner import Sealed
from services.index.core.segment import Part
from services.index.core.writer import State
from tests.services.index.core.checked import CheckedIndex
from tests.services.index.core.data import Batch, codes

QUERIES, TOP_N = 40, 200


def lower_postings(sealed: Sealed) -> Sealed:
    """Round the weights of postings down instead of up."""
    return sealed._replace(postings=sealed.postings._replace(weights=sealed.postings.weights - np.uint8(1)))


def lower_lines(sealed: Sealed) -> Sealed:
    """Round the weights of common latents down instead of up."""
    lines = sealed.common.lines
    return sealed._replace(common=sealed.common._replace(lines=lines - (lines > 0).astype(np.uint8)))


def lower_maxima(sealed: Sealed) -> Sealed:
    """Round the maxima of blocks down instead of up."""
    return sealed._replace(blocks=sealed.blocks._replace(rises=sealed.blocks.rises - np.uint8(1)))


def wrong_answers(
    index: CheckedIndex,
    state: State,
    queries: Any,
    expected: list[Any],
    kernel: str,
    change: Callable[[Sealed], Sealed],
) -> int:
    """Return how many queries a kernel answers wrongly when what it prunes by is changed."""
    parts = tuple(
        Part(replace(part.segment, sealed=change(part.segment.sealed)), part.alive, part.documents)
        for part in state.parts
    )
    changed = replace(state, parts=parts)
    found = index.index.search(queries.latents, queries.weights, TOP_N, kernel=kernel, at=changed)
    return sum(hits != right for hits, right in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("kernel", "lower", "groups"),
    [("accumulate", lower_postings, 5), ("accumulate", lower_lines, 1), ("block-max", lower_maxima, 1)],
)
def test_without_its_slack_a_kernel_loses_hits(kernel: str, lower: Callable[[Sealed], Sealed], groups: int) -> None:
    """The tests of exactness would pass whatever the kernels skip."""
    # Documents of one group have the same latents, which are common if there is but one group.
    drawn = codes(np.random.default_rng(0), "copied", 64 * (300 + QUERIES), 512 // groups, 16)
    of_group = 512 // groups * (np.arange(len(drawn)) % groups)
    drawn = Batch(drawn.latents + of_group[:, None], drawn.weights)
    documents, queries = drawn[: 64 * 300], drawn[64 * 300 :: 64]
    index = CheckedIndex(512, 16)
    index.upsert([f"{row}" for row in range(len(documents))], documents)
    state, expected = index.index.state, index.expected(queries, TOP_N)
    assert len(state.parts) == 1
    assert wrong_answers(index, state, queries, expected, kernel, lambda sealed: sealed) == 0
    assert wrong_answers(index, state, queries, expected, kernel, lower) > QUERIES // 2
