"""Many answers to one query become one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Scored(NamedTuple):
    """A document id and its score."""

    id: str
    score: float


class Hits(Protocol):
    """The answer of one index server to one query: ids and scores side by side."""

    @property
    def ids(self) -> Sequence[str]:
        """Document ids."""

    @property
    def scores(self) -> Sequence[float]:
        """Their scores, same length."""


def merge(answers: Iterable[Hits], top_n: int) -> list[Scored]:
    """Return the best top_n of all answers, by score descending, then id ascending by its UTF-8 bytes.

    Partitions are disjoint, so ids are, too. Each answer must hold the best top_n of its server.
    """
    # Python orders str by code points, which is the order of their UTF-8 bytes.
    ranked = sorted((-score, id) for answer in answers for id, score in zip(answer.ids, answer.scores, strict=True))
    return [Scored(id, -negated) for negated, id in ranked[:top_n]]
