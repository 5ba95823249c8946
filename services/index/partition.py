"""What one partition's log says, replayed: which documents live, in which version, at which position. Pure."""

from collections.abc import Iterable
from typing import TypeAlias

from services.index.store.entry import EMPTY_STATE_DIGEST, LogEntry, combine_digests, document_digest
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail

Changes: TypeAlias = dict[str, bytes | None]
"""What became of documents, by id: the encoded body that counts now, None when the document is gone."""


class Partition:
    """The materialised state of one partition.

    Attributes:
        tail: Position of the last entry replayed.
        live: Live documents by id, with their versions.
        tombstones: Deleted documents by id, with the versions of their deletion.
        state_digest: XOR of the digests of the live documents, 20 bytes; equals the store's at the same position.
    """

    def __init__(self, collection_id: str, partition: int) -> None:
        self.tail = PartitionTail(collection_id, partition)
        self.live: dict[str, int] = {}
        self.tombstones: dict[str, int] = {}
        self.state_digest = EMPTY_STATE_DIGEST

    def apply(self, entries: Iterable[LogEntry], tail: PartitionTail) -> Changes:
        """Replay entries in the order of the log, which end at `tail`; return their net effect.

        The highest version of a document wins, so entries that were replayed before change nothing. An entry of the
        very version that is live counts: it may carry the document's code for one more generation.
        """
        changes: Changes = {}
        digests = [self.state_digest]
        for entry in entries:
            before = self.live.get(entry.id)
            if entry.version < (before or self.tombstones.get(entry.id, 0)):
                continue
            if before is not None:
                digests.append(document_digest(entry.id, before))
            if entry.deleted:
                self.live.pop(entry.id, None)
                self.tombstones[entry.id] = entry.version
                changes[entry.id] = None
            else:
                self.tombstones.pop(entry.id, None)
                self.live[entry.id] = entry.version
                digests.append(document_digest(entry.id, entry.version))
                changes[entry.id] = entry.body
        self.state_digest = combine_digests(digests)
        self.tail = tail
        return changes

    def replace(self, load: PartitionLoad) -> Changes:
        """Forget everything and take over a loaded state; return the way from the old state to it.

        Every loaded document is in the result, known or not: a reload repairs whatever was wrong.
        """
        changes = self.clear()
        for id, version, body in zip(load.ids, load.versions.tolist(), load.bodies, strict=True):
            self.live[id] = version
            changes[id] = body
        self.tail, self.state_digest = load.tail, load.digest
        return changes

    def clear(self) -> Changes:
        """Forget all documents; return what makes an engine forget them, too.

        That includes those that were deleted: an engine never learnt of it if that very change failed.
        """
        changes: Changes = dict.fromkeys([*self.live, *self.tombstones])
        self.live, self.tombstones, self.state_digest = {}, {}, EMPTY_STATE_DIGEST
        return changes
