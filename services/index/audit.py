"""Recomputes from documents what their number and digest are, for comparison with what the store says."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from services.index.core.index import SparseIndex
from services.index.core.writer import State
from services.index.store.entry import EMPTY_STATE_DIGEST, combine_digests, document_digest

_PAGE: Final = 20_000
"""Documents of one step; between two steps other threads have their turn."""


@dataclass(frozen=True, slots=True)
class Content:
    """Documents of a partition: how many, and their state digest, 20 bytes."""

    documents: int = 0
    digest: bytes = EMPTY_STATE_DIGEST


def contents(engine: SparseIndex, partitions: Iterable[int], at: State | None = None) -> dict[int, Content]:
    """Return the contents of partitions of an engine. Cost: a pass over all ids for every _PAGE documents.

    Args:
        engine: The index.
        partitions: Which to look at.
        at: A state of the engine instead of the latest.
    """
    found = dict.fromkeys(partitions, Content())
    after: str | None = None
    while True:
        page = engine.scan(_PAGE, after, partitions=found.keys(), at=at)
        of_partition: dict[int, list[bytes]] = {}
        for id, version, partition in page:
            of_partition.setdefault(partition, []).append(document_digest(id, version))
        for partition, digests in of_partition.items():
            before = found[partition]
            found[partition] = Content(before.documents + len(digests), combine_digests([before.digest, *digests]))
        if len(page) < _PAGE:
            return found
        after = page[-1].id
