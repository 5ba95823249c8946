"""Merging segments: which, when, and how a merged segment learns what was deleted meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.index.core import bits, rows, segment
from services.index.core.segment import Part, Segment

DEAD_SHARE_MAX = 0.2
"""A segment with a larger share of deleted rows is rewritten."""
GROWTH = 3
"""A merge takes in the next larger segment if that has at most so many times the documents of all smaller ones."""


@dataclass(frozen=True, slots=True)
class Merge:
    """Parts to be replaced by one segment of their documents."""

    parts: tuple[Part, ...]

    @property
    def documents(self) -> int:
        """Documents of the merged segment, at most segment.ROWS_MAX."""
        return sum(part.documents for part in self.parts)

    def build(self, hidden_dim: int, levels: tuple[int, ...]) -> Segment:
        """Build the merged segment: long, and without the GIL.

        Beside the parts, memory holds two copies of their rows at most, later one and all that is derived from it.
        """
        sources = [(part.segment.rows, bits.rows_of(part.alive, len(part.segment))) for part in self.parts]
        return segment.build(rows.gather(sources), hidden_dim, levels)

    def swap(self, now: Sequence[Part], built: Segment) -> tuple[Part, ...]:
        """Return the parts of now with the merged segment in place of what it was built from.

        What was deleted since is deleted in it, too. Parts that lost their last document may be missing from `now`.
        """
        alive = bits.pack(np.ones(len(built), np.bool_))
        for before in self.parts:
            after = next((part.alive for part in now if part.segment is before.segment), np.zeros_like(before.alive))
            deleted = bits.rows_of(before.alive & ~after, len(before.segment))
            alive = bits.without(alive, built.find(before.segment.rows.ids.take(deleted)))
        merged = Part(built, alive, bits.count(alive))
        others = tuple(part for part in now if all(part.segment is not before.segment for before in self.parts))
        return (*others, merged) if merged.documents else others


def small(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that may still be merged with others, by number of documents."""
    fitting = [part for part in parts if part.documents <= segment.ROWS_MAX // 2]
    return sorted(fitting, key=lambda part: part.documents)


def due(parts: Sequence[Part], segments_max: int) -> Merge | None:
    """Return the next merge, if any is due.

    When more than `segments_max` segments are small, the smallest are merged, and with them the next larger ones as
    long as GROWTH allows. So sealing n segments of one size rewrites each document fewer than log2(n) times, up to the
    1,024 memtables of a full segment, which is then left alone until a fifth of its rows is dead.
    """
    candidates = small(parts)
    if len(candidates) > segments_max:
        chosen = candidates[:2]
        for part in candidates[2:]:
            documents = Merge(tuple(chosen)).documents
            if part.documents > GROWTH * documents or part.documents + documents > segment.ROWS_MAX:
                break
            chosen.append(part)
        return Merge(tuple(chosen))
    for part in parts:
        if part.documents < (1 - DEAD_SHARE_MAX) * len(part.segment):
            return Merge((part,))
    return None
