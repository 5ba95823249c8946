"""Every key that this system has in Redis, and the hash that sends an id to its partition."""

import zlib
from dataclasses import dataclass
from typing import Final

COLLECTIONS: Final = "csr:{catalog}:collections"
"""Hash: name -> collection record, JSON."""
UNFINISHED: Final = "csr:{catalog}:unfinished"
"""Hash: collection id -> a collection whose keys are still being created or removed, JSON."""
PLACEMENT: Final = "csr:{catalog}:placement"
"""String: the placement table, JSON."""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition. They share a hash tag, so one function call is atomic over them in Redis Cluster.

    Attributes:
        meta: Hash: format, state, term, head of the log, digests and counts (see meta.py).
        docs: Hash: document id -> record (see entry.py).
        log: Stream: one entry per change, with the id `<lsn>-0`.
        results: Hash: results of the latest writes by write id.
    """

    meta: str
    docs: str
    log: str
    results: str

    def all(self) -> tuple[str, str, str, str]:
        """Return the keys in the order in which the functions take them."""
        return self.meta, self.docs, self.log, self.results


def partition_keys(collection_id: str, partition: int) -> PartitionKeys:
    """Return the keys of one partition of one collection."""
    tag = f"csr:{{{collection_id}:{partition}}}"
    return PartitionKeys(f"{tag}:meta", f"{tag}:docs", f"{tag}:log", f"{tag}:results")


def partition_of(id: str, partitions: int) -> int:
    """Return the partition that holds a document id: CRC-32 of its UTF-8 bytes, modulo the number of partitions."""
    return zlib.crc32(id.encode()) % partitions
