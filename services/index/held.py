"""One partition that placement gives to this server: how far it has come, and what is in its way."""

from services.index.partition import PartitionState
from services.index.store.tail import PartitionTail


class HeldPartition:
    """Changed by its collection and by who reads its log, both in the event loop.

    Attributes:
        state: What was published last.
        head_lsn: Head of the log when it was last read.
        stale: The log cannot be followed from here: the partition must be loaded.
        settled: Has once been level with its log, or is unreadable; a server that starts waits for this.
        problem: Why the last attempt to load it failed; empty when it succeeded.
        behind_since: While entries may be missing that were announced: the time, as time.monotonic tells it, up to
            which all that was acknowledged is there. None while nothing is known to be missing.
    """

    def __init__(self, collection_id: str, partition: int) -> None:
        self.partition = partition
        self.state = PartitionState(PartitionTail(collection_id, partition))
        self.head_lsn = 0
        self.stale = True
        self.settled = False
        self.problem = ""
        self.behind_since: float | None = None

    @property
    def tail(self) -> PartitionTail:
        """Where to read on in the log."""
        return self.state.tail

    @property
    def lag(self) -> int:
        """Entries in the log that are not visible yet."""
        return max(self.head_lsn - self.state.tail.lsn, 0)

    def can_follow(self, start: PartitionTail) -> bool:
        """Return whether what was read from `start` on comes next."""
        return not self.stale and self.tail == start
