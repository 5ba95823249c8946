"""Documents of hits, read from the store: for payloads, which an answer can do without, and for re-ranking."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from services.index.store.catalog import CollectionRecord
from services.index.store.reader import DocumentReader
from services.router.deadline import Deadline
from services.router.merge import Scored
from services.router.rerank import rerank
from services.router.search_plan import SearchPlan
from services.runtime import limits, metrics
from services.runtime.errors import CorruptRecord, LimitExceeded, StoreUnavailable, WrongState

log = structlog.get_logger()

_DOCUMENTS_PER_READ: Final = 1_000
"""Bounds the memory of re-ranking and payloads: 256 queries with 1,000 hits each name up to 256,000 documents."""
_PAYLOAD_SHARE: Final = 0.5
"""Of the time left, for payloads: a store that hangs must not cost the caller hits that are ready."""


@dataclass(frozen=True)
class Payloads:
    """Payloads and versions by id; a document that was deleted meanwhile has none."""

    payloads: Mapping[str, str]
    versions: Mapping[str, int]
    missing: bool
    """The store could not be read, or a record was damaged."""


_NONE: Final = Payloads({}, {}, missing=True)


class HitDocuments:
    """Reads documents of hits; holds no state of its own."""

    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader

    async def payloads(self, record: CollectionRecord, uses: Mapping[str, int], deadline: Deadline) -> Payloads:
        """Return the payloads of hits; none of them when the store cannot be read in time.

        A record that fails its checksum is logged and counted, and its hit goes without a payload.

        Args:
            record: The collection.
            uses: How many hits each id is.
            deadline: Of the request; some of the time left is kept for the answer.

        Raises:
            LimitExceeded: the payloads do not fit into an answer.
        """
        ids = sorted(uses)
        payloads: dict[str, str] = {}
        versions: dict[str, int] = {}
        missing = False
        size = 0
        try:
            async with asyncio.timeout(_PAYLOAD_SHARE * deadline.remaining()):
                for start in range(0, len(ids), _DOCUMENTS_PER_READ):
                    part = ids[start : start + _DOCUMENTS_PER_READ]
                    documents, damaged = await self._reader.get_intact(record, part)
                    _report(record, damaged)
                    missing = missing or bool(damaged)
                    for document in documents:
                        if document is not None:
                            size += len(document.body.payload) * uses[document.id]
                            payloads[document.id] = document.body.payload.decode()
                            versions[document.id] = document.version
                    if size > limits.RESPONSE_BYTES_MAX:
                        raise LimitExceeded(
                            f"include_payloads: the payloads of {sum(uses.values())} hits exceed the "
                            f"{limits.RESPONSE_BYTES_MAX} bytes of an answer, ask for fewer hits at a time"
                        )
        except (StoreUnavailable, WrongState, TimeoutError) as error:  # down, or started without its data
            log.warning("hits go without payloads", reason=str(error) or "the store did not answer in time")
            return _NONE
        return Payloads(payloads, versions, missing)

    async def reranked(
        self,
        record: CollectionRecord,
        plan: SearchPlan,
        queries: NDArray[np.float32],
        hits: Sequence[Sequence[Scored]],
    ) -> list[list[Scored]]:
        """Score the sparse hits again with stored embeddings, a few queries at a time.

        Raises:
            CorruptRecord: the record of a hit is damaged. What it would score is unknown, and so is which hits are
                the best; without re-ranking the search is answered.
        """
        reranked: list[list[Scored]] = []
        step = max(1, _DOCUMENTS_PER_READ // plan.rerank)
        for start in range(0, len(hits), step):
            rows = range(start, min(start + step, len(hits)))
            ids = sorted({hit.id for row in rows for hit in hits[row]})
            documents, damaged = await self._reader.get_intact(record, ids)
            _report(record, damaged)
            for error in damaged.values():
                raise CorruptRecord(f"rerank: {error}; search without it until the document is stored again")
            stored = {
                document.id: document.body.embedding
                for document in documents
                if document is not None and document.body.embedding is not None
            }
            for row in rows:
                candidates = [hit.id for hit in hits[row]]
                reranked.append(
                    await asyncio.to_thread(rerank, queries[row], candidates, stored, plan.top_n, plan.min_score)
                )
        return reranked


def _report(record: CollectionRecord, damaged: Mapping[str, CorruptRecord]) -> None:
    for id, error in damaged.items():
        metrics.counter(metrics.DAMAGED_RECORDS).inc()
        log.error("damaged record", collection=record.name, id=id, reason=str(error))
