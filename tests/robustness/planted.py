"""Violations to plant in a recording, each with the kind that a checker must call it: negative controls. Pure."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tests.robustness.checker import Kind
from tests.robustness.history import DELETED, Count, Outcome, Read, Recording, Search, Write

Done = TypeVar("Done", Write, Search, Read, Count)


def lose_document(recording: Recording) -> None:
    """An acknowledged write is not there in the end."""
    del recording.final[max(recording.final)]


def resurrect(recording: Recording) -> None:
    """A deleted document is back in the end."""
    writes = [write for write in recording.operations if isinstance(write, Write)]
    deleted = {
        id: outcome.version
        for write in writes
        for id, code, outcome in zip(write.ids, write.codes, write.outcomes, strict=True)
        if code == DELETED and id not in recording.final
    }
    id, version = next(iter(deleted.items()))
    recording.final[id] = version, 3


def restore_old_version(recording: Recording) -> None:
    """A document has an older version in the end."""
    id, (version, code) = next((id, state) for id, state in recording.final.items() if state[0] > 1)
    recording.final[id] = version - 1, code


def change_code(recording: Recording) -> None:
    """A document has another code in the end than the one that was written."""
    id, (version, code) = next(iter(recording.final.items()))
    recording.final[id] = version, 0 if code else 1


def invent_document(recording: Recording) -> None:
    """A document exists that nobody wrote."""
    recording.final["nobody"] = 1, 1


def reuse_position(recording: Recording) -> None:
    """The store forgot a write and gave its position to the next one."""
    _, write = _some(recording, Write)
    recording.operations.append(replace(write))


def apply_twice(recording: Recording) -> None:
    """A repeated write was applied again: the log has entries that no acknowledgement explains."""
    place, write = _some(recording, Write)
    del recording.operations[place]
    shifted = {partition: lsn + 100_000 for partition, lsn in write.positions.items()}
    recording.operations.append(replace(write, positions=shifted))


def forget_write(recording: Recording) -> None:
    """The log has entries of a write that no client made."""
    del recording.operations[_some(recording, Write)[0]]


def act_before_a_finished_write(recording: Recording) -> None:
    """A write took effect before one that had been acknowledged when it began."""
    place, write = _some(recording, Write)
    recording.operations[place] = replace(write, began=write.began + 1e9, ended=write.ended + 1e9)


def tell_another_version(recording: Recording) -> None:
    """A write is told that a document has a version which it does not have."""
    place, write = _some(recording, Write)
    outcomes = [Outcome("stale", outcome.version + 1) for outcome in write.outcomes]
    recording.operations[place] = replace(write, outcomes=outcomes)


def drop_hit(recording: Recording) -> None:
    """A search misses the best document."""
    place, search = _some(recording, Search)
    recording.operations[place] = replace(search, hits=[search.hits[0][1:], *search.hits[1:]])


def change_score(recording: Recording) -> None:
    """A score is wrong in its last bit."""
    place, search = _some(recording, Search)
    id, score = search.hits[0][0]
    best = [(id, float(np.nextafter(score, 2.0))), *search.hits[0][1:]]
    recording.operations[place] = replace(search, hits=[best, *search.hits[1:]])


def leave_partition_out(recording: Recording) -> None:
    """A strict search answers without one partition."""
    place, search = _some(recording, Search)
    positions = {partition: lsn for partition, lsn in search.positions.items() if partition}
    recording.operations[place] = replace(search, positions=positions)


def ignore_token(recording: Recording) -> None:
    """A search answers from before the writes that its token covers."""
    place, search = _some(recording, Search)
    required = {partition: lsn + 1 for partition, lsn in search.positions.items()}
    recording.operations[place] = replace(search, required=required)


def answer_from_the_future(recording: Recording) -> None:
    """An answer names positions that were never written."""
    place, count = _some(recording, Count)
    positions = {partition: lsn + 1_000_000 for partition, lsn in count.positions.items()}
    recording.operations[place] = replace(count, positions=positions)


def miscount(recording: Recording) -> None:
    """A count is wrong by one."""
    place, count = _some(recording, Count)
    recording.operations[place] = replace(count, count=count.count + 1)


def read_old_version(recording: Recording) -> None:
    """A read shows versions older than any that could be there."""
    place, read = _some(recording, Read)
    recording.operations[place] = replace(read, found={id: (0, code) for id, (_, code) in read.found.items()})


def read_nothing(recording: Recording) -> None:
    """A read does not find documents that live."""
    place, read = _some(recording, Read)
    recording.operations[place] = replace(read, found={})


PLANTED: tuple[tuple[Callable[[Recording], None], Kind], ...] = (
    (lose_document, Kind.LOST),
    (resurrect, Kind.RESURRECTED),
    (restore_old_version, Kind.STALE),
    (change_code, Kind.INVENTED),
    (invent_document, Kind.INVENTED),
    (reuse_position, Kind.LOST),
    (apply_twice, Kind.INVENTED),
    (forget_write, Kind.INVENTED),
    (act_before_a_finished_write, Kind.OUT_OF_ORDER),
    (tell_another_version, Kind.WRONG_OUTCOME),
    (drop_hit, Kind.WRONG_ANSWER),
    (change_score, Kind.WRONG_ANSWER),
    (leave_partition_out, Kind.WRONG_ANSWER),
    (ignore_token, Kind.STALE),
    (answer_from_the_future, Kind.INVENTED),
    (miscount, Kind.WRONG_ANSWER),
    (read_old_version, Kind.STALE),
    (read_nothing, Kind.LOST),
)

PLANTED_IN_RUNS = tuple(
    (plant, kind)
    for plant, kind in PLANTED
    if plant in (lose_document, resurrect, restore_old_version, reuse_position, drop_hit, read_old_version)
)
"""Those that runs of real processes are checked with: a run in which they are not found proves nothing."""


def _some(recording: Recording, kind: type[Done]) -> tuple[int, Done]:
    """Return an operation from the middle of the run that found or changed something, and its place."""
    found = [
        (place, operation)
        for place, operation in enumerate(recording.operations)
        if isinstance(operation, kind) and _substantial(operation)
    ]
    return found[len(found) // 2]


def _substantial(operation: Write | Search | Read | Count) -> bool:
    match operation:
        case Write():
            return any(outcome.status == "applied" for outcome in operation.outcomes)
        case Search():
            return all(operation.hits)
        case Read():
            return len(operation.found) > 1
        case Count():
            return True
