"""What clients did and were answered, and what follows from it about every position of the log. Pure.

Nothing here comes from the service but its answers to clients. A write that was acknowledged says at which log
positions it took effect; a client repeats a write under its id until it is acknowledged, so the acknowledged writes
make up the whole log, and what lives at any position follows.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from services.index.store.keys import partition_of

DELETED = -1
"""In place of the number of a code."""
DAMAGED = -2
"""A code and payload that do not belong together, or that nobody wrote."""
_BLOCK = 256
_FOREVER = np.iinfo(np.int64).max

Positions = Mapping[int, int]
Hits = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a write was told about one document: status, and the version that is stored now."""

    status: str
    version: int


@dataclass(frozen=True, slots=True)
class Write:
    """An acknowledged request. Times are those of the client's clock: first attempt sent, acknowledgement received.

    Attributes:
        codes: Number of each document's code, or DELETED.
        versions: As sent; none when the store assigns them.
        positions: Of the token in the acknowledgement.
    """

    began: float
    ended: float
    ids: Sequence[str]
    codes: Sequence[int]
    versions: Sequence[int]
    outcomes: Sequence[Outcome]
    positions: Positions


@dataclass(frozen=True, slots=True)
class Search:
    """An answered search.

    Attributes:
        required: Positions of the token that was sent.
        positions: Of the receipt.
        partial: Partitions may be missing from the answer.
    """

    queries: Sequence[int]
    top_n: int
    required: Positions
    positions: Positions
    hits: Sequence[Hits]
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Documents read by id: version and number of the code of those that were found."""

    began: float
    ended: float
    ids: Sequence[str]
    found: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Count:
    """Documents counted, and the positions of the count."""

    count: int
    positions: Positions


Operation = Write | Search | Read | Count


@dataclass
class Recording:
    """A whole run on one collection.

    Attributes:
        partitions: Of the collection.
        operations: In any order. Every write that was ever sent is among them, acknowledged.
        final: Version and number of the code of every document that exists in the end, by id.
    """

    partitions: int
    operations: list[Operation]
    final: dict[str, tuple[int, int]]

    def copy(self) -> "Recording":
        """Return one that may be changed without changing this one."""
        return Recording(self.partitions, list(self.operations), dict(self.final))


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log, as its acknowledgement tells."""

    partition: int
    lsn: int
    id: str
    version: int
    code: int
    began: float
    ended: float


class History:
    """Every change of one collection, by partition and position.

    Attributes:
        claims: Of every partition, by position; several at one position if the service was wrong.
        heads: Last position of every partition; 0 where nothing was written.
        by_id: The changes of every document, by position.
    """

    def __init__(self, writes: Iterable[Write], partitions: int, scores: NDArray[np.float64]) -> None:
        """Order the changes.

        Args:
            writes: All that were acknowledged.
            partitions: Of the collection.
            scores: float64 [queries, codes]; see Corpus.
        """
        self._scores = scores
        self.claims: list[list[Change]] = [[] for _ in range(partitions)]
        for write in writes:
            for change in changes_of(write, partitions):
                self.claims[change.partition].append(change)
        for claims in self.claims:
            claims.sort(key=lambda change: (change.lsn, change.ended))
        self.heads = {number: max((c.lsn for c in claims), default=0) for number, claims in enumerate(self.claims)}
        self.by_id: dict[str, list[Change]] = defaultdict(list)
        for claims in self.claims:
            for change in claims:
                self.by_id[change.id].append(change)
        self._of_id: dict[str, _Life] = {}
        ids = sorted(self.by_id, key=str.encode)
        self._ids = np.array([*ids, ""], object)
        rank = {id: number for number, id in enumerate(ids)}
        self._logs = [_Log(claims, rank, self.by_id) for claims in self.claims]

    def latest(self) -> dict[str, Change]:
        """Return the last change of every id."""
        return {id: changes[-1] for id, changes in self.by_id.items()}

    def life(self, id: str) -> "_Life":
        """Return the states of one document in the order of time."""
        if id not in self._of_id:
            self._of_id[id] = _Life(self.by_id.get(id, ()))
        return self._of_id[id]

    def count(self, positions: Positions) -> int:
        """Return the number of documents that live at these positions."""
        return sum(len(self._logs[partition].live(lsn)[0]) for partition, lsn in positions.items())

    def answer(self, queries: Sequence[int], top_n: int, positions: Positions) -> list[Hits]:
        """Return the right answer at these positions."""
        rows = [self._logs[partition].live(lsn) for partition, lsn in positions.items()]
        ranks = np.concatenate([row[0] for row in rows] or [np.empty(0, np.int64)])
        codes = np.concatenate([row[1] for row in rows] or [np.empty(0, np.int64)])
        answers = []
        for query in queries:
            scores = self._scores[query, codes]
            hit = np.flatnonzero(scores > 0)
            best = hit[np.lexsort((ranks[hit], -scores[hit]))][:top_n]
            answers.append(list(zip(self._ids[ranks[best]].tolist(), scores[best].tolist(), strict=True)))
        return answers


class _Life:
    """The states of one document by position; None: before it was written."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._states = [None, *changes]
        self._lsns = [change.lsn for change in changes]
        self._began = _least_from([change.began for change in changes])
        self._ended = _least_from([change.ended for change in changes])

    def at(self, lsn: int) -> Change | None:
        """Return the state at a position."""
        return self._states[bisect_right(self._lsns, lsn)]

    def between(self, began: float, ended: float) -> list[Change | None]:
        """Return the states that a read between these times may show, the oldest first.

        A state is over as soon as the acknowledgement of a later one was received, and not yet there before the
        request for it was sent.
        """
        oldest = bisect_left(self._ended, began)
        newest = bisect_right(self._began, ended)
        return self._states[oldest : max(oldest, newest) + 1]


def _least_from(times: Sequence[float]) -> list[float]:
    """Return for every place the least time from there on: writes at the same time may end in another order."""
    least = list(accumulate(reversed(times), min))
    return least[::-1]


class _Log:
    """The changes of one partition as arrays: what is live at a position is found in one block of positions."""

    def __init__(self, claims: Sequence[Change], rank: Mapping[str, int], by_id: Mapping[str, list[Change]]) -> None:
        until = {id(older): newer.lsn for c in by_id.values() for older, newer in pairwise(c)}
        rows = [
            (change.lsn, until.get(id(change), _FOREVER), rank[change.id], change.code)
            for change in claims
            if change.code != DELETED
        ]
        self._from, self._until, self._ranks, self._codes = np.array(rows, np.int64).reshape(-1, 4).T
        self._blocks: dict[int, NDArray[np.intp]] = {}

    def live(self, lsn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ranks of the ids and numbers of the codes."""
        number = lsn // _BLOCK
        block = self._blocks.get(number)
        if block is None:
            begin = number * _BLOCK
            block = np.flatnonzero((self._from < begin + _BLOCK) & (self._until > begin))
            self._blocks[number] = block
        rows = block[(self._from[block] <= lsn) & (lsn < self._until[block])]
        return self._ranks[rows], self._codes[rows]


def changes_of(write: Write, partitions: int) -> Iterator[Change]:
    """Yield what a write changed. What it applied to a partition are the entries up to the position in its token."""
    applied: dict[int, list[int]] = defaultdict(list)
    for row, (id, outcome) in enumerate(zip(write.ids, write.outcomes, strict=True)):
        if outcome.status == "applied":
            applied[partition_of(id, partitions)].append(row)
    for partition, rows in applied.items():
        first = write.positions[partition] - len(rows) + 1
        for lsn, row in enumerate(rows, first):
            yield Change(
                partition,
                lsn,
                write.ids[row],
                write.outcomes[row].version,
                write.codes[row],
                write.began,
                write.ended,
            )
