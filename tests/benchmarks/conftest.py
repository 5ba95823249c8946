"""A tiny set of each kind: with labels, with pairs, with neither."""

import numpy as np
import pytest

from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit

ROWS, QUERIES, DIM = 600, 60, 24


def split(kind: str, rows: int, seed: int, labelled: bool) -> EmbeddedSplit:
    """Return rows around six directions; labels are the directions."""
    centres = np.random.default_rng(9).normal(size=(6, DIM))
    random = np.random.default_rng(seed)
    labels = random.integers(6, size=rows)
    embeddings = (centres[labels] + 0.5 * random.normal(size=(rows, DIM))).astype(np.float32)
    names = [f"{kind}-{row}" for row in range(rows)]
    return EmbeddedSplit(names, embeddings, labels if labelled else None, [], [], "")


@pytest.fixture
def labelled() -> EmbeddedSet:
    """A set with labels."""
    train = split("train", ROWS, 0, True)
    return EmbeddedSet("labelled", train, None, train, split("test", QUERIES, 1, True), None)


@pytest.fixture
def bare() -> EmbeddedSet:
    """A set with neither labels nor pairs to learn from; each query has one relevant document."""
    train = split("train", ROWS, 0, False)
    relevant = np.stack([np.arange(QUERIES), np.arange(QUERIES) * 2], axis=1)
    return EmbeddedSet("bare", train, None, train, split("test", QUERIES, 1, False), relevant)


@pytest.fixture
def paired() -> EmbeddedSet:
    """600 documents and, as 160 rows behind them, queries of the last documents, one each, in reverse order."""
    documents, asked = split("document", ROWS, 0, False), split("query", 160, 2, False)
    train = EmbeddedSplit(
        documents.ids + asked.ids, np.concatenate([documents.embeddings, asked.embeddings]), None, [], [], ""
    )
    pairs = np.stack([np.arange(160) + ROWS, ROWS - 1 - np.arange(160)], axis=1)
    relevant = np.stack([np.arange(QUERIES), np.arange(QUERIES)], axis=1)
    return EmbeddedSet("paired", train, pairs, documents, split("test", QUERIES, 1, False), relevant)


@pytest.fixture(params=["labelled", "bare", "paired"])
def embedded(request: pytest.FixtureRequest) -> EmbeddedSet:
    """Each of the three in turn."""
    data: EmbeddedSet = request.getfixturevalue(request.param)
    return data
