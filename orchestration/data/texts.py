"""Texts with labels or with answers, before they are embedded."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledTexts:
    """n texts of one split; all sequences have length n and the same order."""

    ids: tuple[str, ...]
    """Unique over all splits of the set."""
    texts: tuple[str, ...]
    """Empty where the rows are pictures."""
    labels: tuple[int, ...] | None
    """Positions in label_names; None where the set has no labels."""
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, positions: Sequence[int]) -> "LabelledTexts":
        """Return the texts at these positions, in this order; label names stay."""
        return LabelledTexts(
            ids=tuple(self.ids[position] for position in positions),
            texts=tuple(self.texts[position] for position in positions),
            labels=None if self.labels is None else tuple(self.labels[position] for position in positions),
            label_names=self.label_names,
        )

    def sample(self, rows: int, seed: int) -> "LabelledTexts":
        """Return `rows` texts (all, if there are fewer) in the order of `hashed_order`."""
        return self.keep(hashed_order(self.ids, seed)[:rows])

    def digest(self) -> str:
        """Return a SHA-256 over everything here."""
        columns = (self.ids, self.texts, self.labels, self.label_names)
        return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class SearchTexts:
    """Documents, and queries whose answers are known."""

    documents: LabelledTexts
    queries: LabelledTexts
    relevant: NDArray[np.int64]
    """[r, 2], (row of queries, row of documents), ascending, without repeats."""


def hashed_order(ids: Sequence[str], seed: int) -> list[int]:
    """Return all positions in random order.

    The order follows hashes of seed and id, so it is the same on every machine and version, and a smaller sample is
    the beginning of a larger one.
    """
    return sorted(range(len(ids)), key=lambda row: hashlib.sha256(f"{seed}/{ids[row]}".encode()).digest())
