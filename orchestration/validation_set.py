"""What quality is measured on while and after training: a part of the training data, never the test split."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from csr_model.validation import held_out
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit, data_digest
from services.runtime.errors import InvalidRequest

NEIGHBOUR_QUERIES: Final = 500
"""Held-out documents that ask for their dense neighbours, where a set has neither labels nor pairs."""

Rows = NDArray[np.int64]


def validation_set(data: EmbeddedSet) -> EmbeddedSet:
    """Return the set that judges adapters trained on the `train` and `pairs` of the result; the test split is unused.

    About a tenth is held out, by id and so the same in every run:

    - Labels: a tenth of the training rows ask, the others are trained on and searched.
    - Pairs: the pairs of a tenth of the queries are held out; these queries ask the documents of all pairs, and
      everything but them is trained on. Pairs come first where a set has both and is tested by relevance.
    - Neither: up to 500 held-out rows ask the others; only recall of dense neighbours can be measured.

    Raises:
        InvalidRequest: So few rows or pairs that none is held out, or none is left.
    """
    by_relevance = data.relevant is not None or data.train.labels is None
    if data.pairs is not None and len(data.pairs) and by_relevance:
        return _of_pairs(data, np.asarray(data.pairs))
    asking = np.flatnonzero(held_out(data.train.ids))
    left = np.setdiff1d(np.arange(len(data.train.ids)), asking)
    _check(len(asking), len(left), f"{len(data.train.ids)} training rows")
    if data.train.labels is None:
        asking = asking[:NEIGHBOUR_QUERIES]
    documents, queries = rows_of(data.train, left), rows_of(data.train, asking)
    return EmbeddedSet(f"{data.name}-validation", documents, None, documents, queries, None)


def rows_of(split: EmbeddedSplit, rows: Rows) -> EmbeddedSplit:
    """Return these rows of a split, in this order, with a digest of their own."""
    ids = [split.ids[row] for row in rows]
    embeddings, labels = split.embeddings[rows], None if split.labels is None else split.labels[rows]
    return replace(
        split,
        ids=ids,
        embeddings=embeddings,
        labels=labels,
        texts=[split.texts[row] for row in rows],
        digest=data_digest(ids, embeddings, labels),
    )


def _of_pairs(data: EmbeddedSet, pairs: Rows) -> EmbeddedSet:
    asking_rows = np.unique(pairs[:, 0])
    asking = asking_rows[held_out([data.train.ids[row] for row in asking_rows])]
    held = np.isin(pairs[:, 0], asking)
    _check(int(held.sum()), int((~held).sum()), f"{len(pairs)} training pairs")
    # A row that is also a document of a pair that stays is needed there.
    found = np.unique(pairs[:, 1])
    left = np.setdiff1d(np.arange(len(data.train.ids)), np.setdiff1d(asking, found))
    return EmbeddedSet(
        name=f"{data.name}-validation",
        train=rows_of(data.train, left),
        pairs=np.searchsorted(left, pairs[~held]),
        documents=rows_of(data.train, found),
        queries=rows_of(data.train, asking),
        relevant=np.stack([np.searchsorted(asking, pairs[held, 0]), np.searchsorted(found, pairs[held, 1])], axis=1),
    )


def _check(held: int, left: int, what: str) -> None:
    if not held or not left:
        raise InvalidRequest(f"validation: of {what}, {held} are held out and {left} left; more are needed")
