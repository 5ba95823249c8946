"""Whether a correct service could have answered what clients were answered. Pure; see history.py."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.index.store.keys import partition_of
from tests.robustness.history import DELETED, Change, Count, History, Positions, Read, Recording, Search, Write


class Kind(StrEnum):
    """How a service can be wrong."""

    LOST = "lost"
    """An acknowledged write is gone."""
    RESURRECTED = "resurrected"
    """A deleted document is back."""
    STALE = "stale"
    """An older version, or an older state than was promised, is shown in place of the latest."""
    INVENTED = "invented"
    """Something that no client ever did."""
    WRONG_ANSWER = "wrong answer"
    """A search or a count differs from brute force at the positions that it names."""
    WRONG_OUTCOME = "wrong outcome"
    """What a write was told about a document contradicts what was stored."""
    OUT_OF_ORDER = "out of order"
    """A write took effect before one that had been acknowledged when it began."""


@dataclass(frozen=True)
class Violation:
    """One thing that a correct service cannot have done."""

    kind: Kind
    text: str


def check(recording: Recording, scores: NDArray[np.float64]) -> list[Violation]:
    """Return everything in a recording that a correct service cannot have done.

    Args:
        recording: A whole run.
        scores: float64 [queries, codes]; see Corpus.
    """
    writes = [operation for operation in recording.operations if isinstance(operation, Write)]
    history = History(writes, recording.partitions, scores)
    violations = [
        *_check_log(history),
        *_check_outcomes(history, writes, recording.partitions),
        *_check_final(history, recording.final),
    ]
    for operation in recording.operations:
        if isinstance(operation, Search):
            violations.extend(_check_search(history, operation))
        elif isinstance(operation, Read):
            violations.extend(_check_read(history, operation))
        elif isinstance(operation, Count):
            violations.extend(_check_count(history, operation))
    return violations


def _check_log(history: History) -> Iterator[Violation]:
    for partition, claims in enumerate(history.claims):
        expected, began = 1, 0.0
        for change in claims:
            where = f"partition {partition}, position {change.lsn}, {change.id}"
            if change.lsn < expected:
                yield Violation(Kind.LOST, f"{where}: two acknowledged writes claim this position, one is gone")
            elif change.lsn > expected:
                yield Violation(Kind.INVENTED, f"{where}: nobody wrote the entries from {expected} on")
            if change.ended < began:
                yield Violation(Kind.OUT_OF_ORDER, f"{where}: stands behind a write that began after it had ended")
            expected, began = change.lsn + 1, max(began, change.began)
    for changes in history.by_id.values():
        for older, newer in pairwise(changes):
            if newer.version <= older.version:
                text = f"{newer.id}: version {newer.version} at {newer.lsn} follows {older.version} at {older.lsn}"
                yield Violation(Kind.STALE, text)


def _check_outcomes(history: History, writes: Sequence[Write], partitions: int) -> Iterator[Violation]:
    """Check what was told about documents that were not changed, and versions that clients chose."""
    for write in writes:
        for row, (id, outcome) in enumerate(zip(write.ids, write.outcomes, strict=True)):
            sent = write.versions[row] if write.versions else 0
            if outcome.status == "applied":
                right = sent in (0, outcome.version)
            else:
                state = history.life(id).at(write.positions[partition_of(id, partitions)])
                right = (
                    state is not None
                    and outcome.version == state.version
                    and _refused_rightly(outcome.status, sent, write.codes[row], state)
                )
            if not right:
                yield Violation(Kind.WRONG_OUTCOME, f"{id}: version {sent} was sent and answered by {outcome}")


def _refused_rightly(status: str, sent: int, code: int, state: Change) -> bool:
    if status == "stale":
        return sent < state.version
    same = code == state.code
    return sent == state.version and status == ("unchanged" if same else "conflict")


def _check_final(history: History, final: Mapping[str, tuple[int, int]]) -> Iterator[Violation]:
    latest = history.latest()
    for id in sorted(latest.keys() | final.keys()):
        yield from _compare(f"in the end, {id}", latest.get(id), final.get(id))


def _compare(where: str, expected: Change | None, found: tuple[int, int] | None) -> Iterator[Violation]:
    if expected is None:
        if found is not None:
            yield Violation(Kind.INVENTED, f"{where}: version {found[0]}, which nobody wrote")
    elif expected.code == DELETED:
        if found is not None:
            yield Violation(Kind.RESURRECTED, f"{where}: version {found[0]}, deleted by {expected.version}")
    elif found is None:
        yield Violation(Kind.LOST, f"{where}: missing, version {expected.version} was acknowledged")
    elif found[0] < expected.version:
        yield Violation(Kind.STALE, f"{where}: version {found[0]}, {expected.version} was acknowledged")
    elif found != (expected.version, expected.code):
        text = f"{where}: version {found[0]} with code {found[1]}, {expected.version} was written with {expected.code}"
        yield Violation(Kind.INVENTED, text)


def _check_search(history: History, search: Search) -> Iterator[Violation]:
    if not search.positions or not (search.partial or search.positions.keys() == history.heads.keys()):
        yield Violation(Kind.WRONG_ANSWER, f"a search answered from partitions {sorted(search.positions)}")
        return
    yield from _check_positions(history, search.positions)
    for partition, lsn in search.required.items():
        if search.positions.get(partition, lsn) < lsn:
            text = f"partition {partition}: answered at {search.positions[partition]}, the token demands {lsn}"
            yield Violation(Kind.STALE, text)
    expected = history.answer(search.queries, search.top_n, search.positions)
    for query, right, hits in zip(search.queries, expected, search.hits, strict=True):
        if hits != right:
            text = f"query {query} at {dict(search.positions)}: {hits}, right is {right}"
            yield Violation(Kind.WRONG_ANSWER, text)


def _check_count(history: History, count: Count) -> Iterator[Violation]:
    yield from _check_positions(history, count.positions)
    expected = history.count(count.positions)
    if count.count != expected:
        yield Violation(Kind.WRONG_ANSWER, f"{count.count} documents at {dict(count.positions)}, right is {expected}")


def _check_positions(history: History, positions: Positions) -> Iterator[Violation]:
    for partition, lsn in positions.items():
        if lsn > history.heads[partition]:
            text = f"partition {partition}: answered at {lsn}, the log ends at {history.heads[partition]}"
            yield Violation(Kind.INVENTED, text)


def _check_read(history: History, read: Read) -> Iterator[Violation]:
    for id in read.ids:
        found = read.found.get(id)
        states = history.life(id).between(read.began, read.ended)
        if all(list(_compare("", state, found)) for state in states):
            yield from _compare(f"read, {id}", states[0], found)
