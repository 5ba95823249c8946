"""What quality is measured on while and after training: a part of the training data, never the test split."""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from csr_model.embeddings import spread_rows
from csr_model.validation import held_out
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit, data_digest
from services.runtime.errors import InvalidRequest

NEIGHBOUR_QUERIES: Final = 500
"""Held-out documents that ask for their dense neighbours, where a set has neither labels nor pairs."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """The rows of a training split that judge, and those that are left to learn from; by number.

    Attributes:
        learned: [n] rows to train on, ascending.
        pairs: [m, 2] positions in `learned` of the pairs to train on; None where the set has none.
        documents: Rows to search.
        queries: Rows that ask, ascending.
        relevant: [r, 2] positions in `queries` and `documents`; None where labels decide, or dense neighbours.
    """

    learned: Rows
    pairs: Rows | None
    documents: Rows
    queries: Rows
    relevant: Rows | None

    def thinned(self, queries: int, documents: int) -> Self:
        """Return at most so many queries, and so many documents besides those that they want, spread evenly."""
        asking = spread(np.arange(len(self.queries)), queries)
        kept = spread(np.arange(len(self.documents)), documents)
        relevant = self.relevant
        if relevant is not None:
            relevant = relevant[np.isin(relevant[:, 0], asking)]
            kept = np.union1d(kept, relevant[:, 1])
            sides = [np.searchsorted(asking, relevant[:, 0]), np.searchsorted(kept, relevant[:, 1])]
            relevant = np.stack(sides, axis=1)
        return replace(self, documents=self.documents[kept], queries=self.queries[asking], relevant=relevant)


def held_out_rows(data: EmbeddedSet) -> HeldOutRows:
    """Return which rows of the training split judge adapters that are trained on the others; the test split is unused.

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
        return _of_pairs(data.train.ids, np.asarray(data.pairs))
    asking = np.flatnonzero(held_out(data.train.ids))
    left = np.setdiff1d(np.arange(len(data.train.ids)), asking)
    _check(len(asking), len(left), f"{len(data.train.ids)} training rows")
    if data.train.labels is None:
        asking = asking[:NEIGHBOUR_QUERIES]
    return HeldOutRows(left, None, left, asking, None)


def validation_set(data: EmbeddedSet, rows: HeldOutRows | None = None) -> EmbeddedSet:
    """Return the set that judges adapters trained on the `train` and `pairs` of the result.

    Args:
        data: With its training split.
        rows: By default `held_out_rows(data)`.

    Raises:
        InvalidRequest: As `held_out_rows`.
    """
    rows = held_out_rows(data) if rows is None else rows
    train = rows_of(data.train, rows.learned)
    return EmbeddedSet(
        name=f"{data.name}-validation",
        train=train,
        pairs=rows.pairs,
        documents=train if rows.documents is rows.learned else rows_of(data.train, rows.documents),
        queries=rows_of(data.train, rows.queries),
        relevant=rows.relevant,
    )


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


def spread(rows: Rows, count: int) -> Rows:
    """Return at most `count` of the rows, at even distances."""
    chosen: Rows = rows[spread_rows(len(rows), count)]
    return chosen


def _of_pairs(ids: list[str], pairs: Rows) -> HeldOutRows:
    asking_rows = np.unique(pairs[:, 0])
    asking = asking_rows[held_out([ids[row] for row in asking_rows])]
    held = np.isin(pairs[:, 0], asking)
    _check(int(held.sum()), int((~held).sum()), f"{len(pairs)} training pairs")
    # A row that is also a document of a pair that stays is needed there.
    found = np.unique(pairs[:, 1])
    left = np.setdiff1d(np.arange(len(ids)), np.setdiff1d(asking, found))
    return HeldOutRows(
        learned=left,
        pairs=np.searchsorted(left, pairs[~held]),
        documents=found,
        queries=asking,
        relevant=np.stack([np.searchsorted(asking, pairs[held, 0]), np.searchsorted(found, pairs[held, 1])], axis=1),
    )


def _check(held: int, left: int, what: str) -> None:
    if not held or not left:
        raise InvalidRequest(f"validation: of {what}, {held} are held out and {left} left; more are needed")
