"""Every key that this system has in Redis, and the hash that sends an id to its partition."""

import zlib
from dataclasses import dataclass
from typing import Final

COLLECTIONS: Final = "csr:{catalog}:collections"
"""Hash: name -> collection record, JSON."""
UNFINISHED: Final = "csr:{catalog}:unfinished"
"""Hash: collection id -> a collection whose keys are still being created or removed, JSON."""
CATALOG_REVISION: Final = "csr:{catalog}:revision"
"""String: a number that grows with every change of the catalogue."""
PLACEMENT: Final = "csr:{catalog}:placement"
"""String: the placement table, JSON."""
LOG_CHANNEL: Final = "csr:log"
"""Pub/Sub channel: `<collection id>:<partition>` whenever something was appended to a log."""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition. They share a hash tag, so one function call is atomic over them in Redis Cluster.

    Attributes:
        meta: Hash: format, state, term, head of the log, digests and counts (see meta.py).
        docs: Hash: document id -> record (see entry.py).
        log: Stream: one entry per change, with the id `<lsn>-0`.
        results: Hash: results of the latest writes by write id.
        pins: Hash: name of a reader -> `<lsn> <expiry in microseconds>`; the log behind the LSN is not trimmed.
        tombstones: Sorted set: ids of deleted documents by the time of their deletion, in microseconds.
        repairs: Hash: `<generation>:<id>` -> version of a document that lacks the code of a live generation.
    """

    meta: str
    docs: str
    log: str
    results: str
    pins: str
    tombstones: str
    repairs: str

    def all(self) -> tuple[str, ...]:
        """Return all keys, in the order in which csr_write takes them."""
        return self.meta, self.docs, self.log, self.results, self.pins, self.tombstones, self.repairs


def partition_keys(collection_id: str, partition: int) -> PartitionKeys:
    """Return the keys of one partition of one collection."""
    tag = f"csr:{{{collection_id}:{partition}}}"
    return PartitionKeys(
        meta=f"{tag}:meta",
        docs=f"{tag}:docs",
        log=f"{tag}:log",
        results=f"{tag}:results",
        pins=f"{tag}:pins",
        tombstones=f"{tag}:tombstones",
        repairs=f"{tag}:repairs",
    )


def server_report_key(name: str) -> str:
    """Return the key of what an index server last said of itself: a string, JSON, that expires."""
    return f"csr:{{catalog}}:server:{name}"


def stream_key(collection_id: str, stream_id: str) -> str:
    """Return the key of how far a stream of writes has come: a string, a number, that expires."""
    return f"csr:{{{collection_id}}}:stream:{stream_id}"


def partition_of(id: str, partitions: int) -> int:
    """Return the partition that holds a document id: CRC-32 of its UTF-8 bytes, modulo the number of partitions."""
    return zlib.crc32(id.encode()) % partitions
