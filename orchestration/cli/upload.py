"""Bulk loads: a data set becomes one upsert stream, which a repeat resumes."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestration.cli.app import err
from orchestration.data.split import EmbeddedSplit
from services.client.blocking import Client
from services.client.types import Batch, BatchResult, Payload, Token

BATCH: Final = 500
TEXT_CHARACTERS: Final = 4_000
"""Of a text kept as payload."""
_EXAMPLES: Final = 5
"""Documents that were not stored, of which it is said why."""


@dataclass
class Uploaded:
    """What a bulk load did.

    Attributes:
        total: Documents of the data set.
        resumed: Documents that an earlier load had stored; they were not sent.
        statuses: Of the others, how many came to each status.
        examples: Of those that were not stored: id and reason, the first few.
        positions: Log positions that cover what was sent.
    """

    collection_id: str
    total: int
    resumed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Documents that were not stored."""
        return sum(count for status, count in self.statuses.items() if status not in ("applied", "unchanged"))

    @property
    def token(self) -> Token:
        """What a search must carry to see what was sent."""
        return Token(self.collection_id, self.positions)

    def add(self, ids: Sequence[str], result: BatchResult) -> None:
        """Count the result of one batch."""
        for id, document in zip(ids, result.results, strict=True):
            if document is None:
                self.resumed += 1
                continue
            self.statuses[document.status] += 1
            if document.status not in ("applied", "unchanged") and len(self.examples) < _EXAMPLES:
                self.examples.append(f"{id}: {document.error or document.status}")
        if result.token is not None:
            self.positions |= result.token.positions


def upload(router: Client, collection: str, rows: EmbeddedSplit, again: bool = False) -> Uploaded:
    """Store embeddings with their texts as payloads, drawing a progress bar on standard error.

    The stream is named after the collection and the data, so that a repeat goes on where an interrupted one stopped.

    Args:
        router: Client of a router.
        collection: Its name.
        rows: What to store.
        again: Send everything, also what an earlier load stored.
    """
    collection_id = router.describe_collection(collection).collection.collection_id
    done = Uploaded(collection_id, len(rows.ids))
    name = None if again else stream_id(collection_id, rows)
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=err) as bar,
        closing(router.upsert_stream(collection, batches(rows), stream_id=name)) as results,
    ):
        task = bar.add_task("indexing", total=len(rows.ids))
        for number, result in enumerate(results):
            done.add(rows.ids[number * BATCH : (number + 1) * BATCH], result)
            bar.advance(task, len(result.results))
    return done


def batches(rows: EmbeddedSplit) -> Iterator[Batch]:
    """Yield the documents in the order and in the batches that a repeat must keep to."""
    for start in range(0, len(rows.ids), BATCH):
        part = slice(start, start + BATCH)
        yield Batch(rows.ids[part], embeddings=rows.embeddings[part], payloads=payloads_of(rows, part))


def payloads_of(rows: EmbeddedSplit, part: slice) -> list[Payload]:
    """Texts (their beginning, when they are long) and label names as payloads."""
    texts = [text[:TEXT_CHARACTERS] for text in rows.texts[part]]
    labels = [""] * len(texts) if rows.labels is None else [rows.label_names[label] for label in rows.labels[part]]
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def stream_id(collection_id: str, rows: EmbeddedSplit) -> str:
    """Return a name that only the same documents in the same batches for the same collection have."""
    digest = hashlib.sha256(json.dumps([collection_id, rows.digest, BATCH]).encode())
    for start in range(0, len(rows.ids), BATCH):
        digest.update(json.dumps(payloads_of(rows, slice(start, start + BATCH))).encode())
    return f"index-{digest.hexdigest()[:40]}"
