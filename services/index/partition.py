"""What one partition's log says, replayed: at which position how many documents live, and their digest. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.index.store.entry import EMPTY_STATE_DIGEST, LogEntry, combine_digests, document_digest
from services.index.store.tail import PartitionTail


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition at one position of its log.

    Attributes:
        tail: The position.
        documents: Live documents.
        digest: XOR of the digests of the live documents, 20 bytes; equals the store's at the same position.
    """

    tail: PartitionTail
    documents: int = 0
    digest: bytes = EMPTY_STATE_DIGEST

    def after(self, entries: Iterable[LogEntry], tail: PartitionTail) -> "PartitionState":
        """Return the state at `tail`, to which these entries lead without a gap.

        Entries say which version they replace, so nothing has to be known of the documents themselves.
        """
        documents, digests = self.documents, [self.digest]
        for entry in entries:
            if entry.previous:
                documents -= 1
                digests.append(document_digest(entry.id, entry.previous))
            if not entry.deleted:
                documents += 1
                digests.append(document_digest(entry.id, entry.version))
        return replace(self, tail=tail, documents=documents, digest=combine_digests(digests))
