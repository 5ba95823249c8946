"""An index for tests that must not change it."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

from services.index.core import writer
from services.index.core.index import SparseIndex
from services.index.core.where import Eq
from tests.services.index.core.data import codes
from tests.services.index.core.filters import FIELDS


@pytest.fixture
def index() -> SparseIndex:
    """Return an index with two segments, a deleted row, and a memtable."""
    index = SparseIndex(8, 4, FIELDS)
    with mock.patch.object(writer, "SEAL_ROWS", 5):
        rng = np.random.default_rng(0)
        for begin in (0, 6):
            batch = codes(rng, "uniform", 6, 8, 4)
            names = [f"{begin + row}" for row in range(6)]
            index.upsert(names, batch.latents, batch.weights, [{"year": 1990, "tags": ["x"]}] * 6, [1] * 6)
        index.delete(["3"])
    index.upsert(
        ["kept"], np.array([[1, 2]]), np.array([[1.0, 0.5]], np.float32), fields=[{"year": 2000}], partitions=[3]
    )
    return index


def everything(index: SparseIndex) -> list[Any]:
    """Return all that an index tells about its documents."""
    statistics = index.statistics()
    counts = (statistics.documents, statistics.dead_rows, statistics.segments, statistics.memtable_rows)
    usage = (statistics.bytes, statistics.latent_usage.tolist(), statistics.posting_skew)
    one_latent_each = np.arange(8)[:, None], np.ones((8, 1), np.float32)
    answers = [
        index.search(*one_latent_each, 1000, k_docs=k_docs, where=where, partitions=partitions)
        for k_docs in (1, 2, 4)
        for where in (None, Eq("year", 2000), Eq("tags", "x"))
        for partitions in (None, [1], [3])
    ]
    return [len(index), index.ids(), index.scan(1_000_000), counts, usage, answers]


@pytest.fixture
def untouched(index: SparseIndex) -> Iterator[SparseIndex]:
    """Return the index, and check afterwards that the test did not change a thing."""
    before = everything(index)
    assert sum(map(len, before[-1][0])) == len(index), "every document is found"
    yield index
    assert everything(index) == before
