"""Whether a deployment holds what its log says: comparisons of what was read. Pure.

The log is the measure: by its meta a partition has so many documents with that state digest at that position. Because
every entry says what it replaced, the same is known at every position that the log still reaches; so what was read
at different positions is compared exactly, also while writes go on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.index.store.entry import LogEntry, combine_digests, document_digest

IDS_MAX: Final = 20
"""Documents that are named per finding."""


@dataclass(frozen=True)
class Content:
    """What one place holds of a partition at one position of its log."""

    lsn: int
    documents: int
    digest: str
    """State digest, 40 hex digits."""


@dataclass(frozen=True)
class Held:
    """What an index server holds of a partition.

    Attributes:
        snapshot: Of its latest snapshot; None when there is none, or it cannot be read.
        snapshot_problem: Why it cannot be read; empty when it can, or there is none.
    """

    memory: Content
    snapshot: Content | None
    snapshot_problem: str


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        where: `redis`, `redis, log`, the name of an index server, or `<name>, snapshot`.
        problem: What is wrong, as people say it.
        ids: Documents that differ, with how; at most IDS_MAX.
    """

    collection: str
    collection_id: str
    partition: int
    where: str
    problem: str
    ids: tuple[str, ...] = ()


def moved(content: Content, entries: Sequence[LogEntry], lsn: int) -> Content:
    """Return the content at another position.

    Args:
        content: What is known.
        entries: Of the log, without gaps; those between the two positions are used.
        lsn: The other position, before or behind.
    """
    first, last = sorted((content.lsn, lsn))
    between = [entry for entry in entries if first < entry.lsn <= last]
    assert len(between) == last - first, "entries have no gaps"
    changes = [change for entry in between for change in _changes(entry)]
    # An XOR takes back what it did, so the digests are the same in both directions.
    digest = combine_digests([bytes.fromhex(content.digest), *(digest for digest, _ in changes)])
    added = sum(count for _, count in changes)
    return Content(lsn, content.documents + (added if lsn > content.lsn else -added), digest.hex())


def difference(expected: Content, found: Content) -> str | None:
    """Say how a content differs from what it should be at the same position; None when it does not."""
    assert expected.lsn == found.lsn, "contents are compared at one position"
    if found == expected:
        return None
    if found.documents != expected.documents:
        return f"{found.documents:,} documents at {found.lsn}, the log says {expected.documents:,}"
    return f"other documents or versions than the log says, at {found.lsn} ({found.documents:,} documents)"


def differing_ids(expected: Mapping[str, int], found: Mapping[str, int]) -> tuple[str, ...]:
    """Name documents that are in one of two places only, or in another version there: the first by id.

    Args:
        expected: Version by id, as it should be.
        found: Version by id, as it is.
    """

    def named() -> Iterator[str]:
        for id in sorted(expected.keys() | found.keys()):
            if expected.get(id) == found.get(id):
                continue
            if id not in found:
                yield f"{id}: missing"
            elif id not in expected:
                yield f"{id}: should not be there (version {found[id]})"
            else:
                yield f"{id}: version {found[id]}, should be {expected[id]}"

    return tuple(text for text, _ in zip(named(), range(IDS_MAX), strict=False))


def _changes(entry: LogEntry) -> Iterator[tuple[bytes, int]]:
    """Yield what an entry changed: the digest of a document, and by how much the count of documents grew."""
    if entry.previous:
        yield document_digest(entry.id, entry.previous), -1
    if not entry.deleted:
        yield document_digest(entry.id, entry.version), 1
