"""What becomes of documents, column by column: the form in which logs and loads reach the engines. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.index.core.fields import Declared, Record
from services.index.fields import field_values
from services.index.store.entry import LogEntry, decode_body
from services.index.store.load import PartitionLoad


@dataclass(frozen=True, slots=True)
class Changes:
    """One change of an engine.

    Attributes:
        dropped: Partitions that lose all documents first.
        ids: Documents that are stored or replaced, distinct.
        versions: int64, one per id.
        partitions: int64, one per id.
        bodies: As the store has them, one per id.
        fields: Values of the declared fields, one per id; None when there are none at all.
        gone: Ids of documents that are deleted.
    """

    dropped: frozenset[int] = frozenset()
    ids: list[str] = field(default_factory=list)
    versions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    partitions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    bodies: list[bytes] = field(default_factory=list)
    fields: list[Record | None] | None = None
    gone: list[str] = field(default_factory=list)


def changes_of_logs(logs: Mapping[int, Sequence[LogEntry]], declared: Declared) -> Changes:
    """Return the net effect of log entries by partition: the last one of each id counts.

    Raises:
        CorruptRecord, WrongState: a body that this release cannot read.
    """
    stored: list[tuple[int, LogEntry]] = []
    gone: list[str] = []
    for partition, entries in logs.items():
        for entry in {entry.id: entry for entry in entries}.values():
            if entry.deleted:
                gone.append(entry.id)
            else:
                stored.append((partition, entry))
    bodies = [entry.body for _, entry in stored]
    return Changes(
        ids=[entry.id for _, entry in stored],
        versions=np.array([entry.version for _, entry in stored], np.int64),
        partitions=np.array([partition for partition, _ in stored], np.int64),
        bodies=bodies,
        fields=_fields(bodies, declared),
        gone=gone,
    )


def changes_of_loads(loads: Collection[PartitionLoad], declared: Declared) -> Changes:
    """Return what replaces whole partitions by what was loaded.

    Raises:
        CorruptRecord, WrongState: as `changes_of_logs`.
    """
    bodies = [body for load in loads for body in load.bodies]
    return Changes(
        dropped=frozenset(load.tail.partition for load in loads),
        ids=[id for load in loads for id in load.ids],
        versions=np.concatenate([load.versions for load in loads]),
        partitions=np.repeat([load.tail.partition for load in loads], [len(load.ids) for load in loads]),
        bodies=bodies,
        fields=_fields(bodies, declared),
    )


def _fields(bodies: Sequence[bytes], declared: Declared) -> list[Record | None] | None:
    if not declared:
        return None
    return [field_values(decode_body(body).payload, declared) for body in bodies]
