"""Which index server holds which partition: an explicit table in Redis, resolved by rendezvous hashing."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.keys import PLACEMENT
from services.runtime.errors import AliasMoved, CorruptRecord, InvalidRequest, WrongState

TABLE_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class IndexServer:
    """An index server: its name, which placement depends on, and host:port, which it does not."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class PlacementTable:
    """All index servers and how many of them hold each partition.

    Attributes:
        term: 1 and up; grows with every change.
        replication: Servers per partition, 1..len(servers).
        servers: At least one; names are unique.
    """

    term: int
    replication: int
    servers: tuple[IndexServer, ...]

    def __post_init__(self) -> None:
        if len({server.name for server in self.servers}) != len(self.servers):
            raise InvalidRequest("placement: names of servers must be unique")
        if not 1 <= self.replication <= len(self.servers):
            raise InvalidRequest(f"placement: replication {self.replication} not in 1..{len(self.servers)}")

    def owners(self, collection_id: str, partition: int) -> tuple[IndexServer, ...]:
        """Return the servers that hold a partition, the first choice first.

        Each server's claim is a hash of its name and the partition; the highest win. So a server that comes or goes
        moves only the partitions that it gains or loses.
        """
        key = f"{collection_id}:{partition}"
        ranked = sorted(self.servers, key=lambda server: (_claim(server.name, key), server.name), reverse=True)
        return tuple(ranked[: self.replication])

    def owner(self, collection_id: str, partition: int) -> IndexServer:
        """Return the first choice among the servers that hold a partition."""
        return self.owners(collection_id, partition)[0]

    def to_json(self) -> str:
        """Return the table as JSON with a format version."""
        return json.dumps({"format": TABLE_FORMAT, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "PlacementTable":
        """Return the table behind its JSON.

        Raises:
            WrongState: a newer release of this system wrote the table.
            CorruptRecord: the text is no table.
        """
        try:
            fields = json.loads(text)
            layout = fields.pop("format")
            if layout > TABLE_FORMAT:
                raise WrongState(f"placement format {layout}: this release reads up to {TABLE_FORMAT}; upgrade it")
            servers = tuple(IndexServer(**server) for server in fields.pop("servers"))
            return cls(**fields, servers=servers)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptRecord(f"placement table: {error!r}") from None


async def read_placement(redis: Redis) -> PlacementTable:
    """Return the placement table in force.

    Raises:
        WrongState: none was written yet.
    """
    with store_errors("read placement"):
        text = await redis.get(PLACEMENT)
    if text is None:
        raise WrongState("no placement table: start the stack, or write one")
    return PlacementTable.from_json(text)


async def write_placement(redis: Redis, table: PlacementTable, expected_term: int) -> None:
    """Replace the table of term `expected_term` (0: there is none) by one of a higher term.

    Raises:
        AliasMoved: another table is in force by now; read it and decide again.
        InvalidRequest: the new term is not higher.
    """
    if table.term <= expected_term:
        raise InvalidRequest(f"placement: term {table.term} must be higher than {expected_term}")
    with store_errors("write placement"):
        current = int(await redis.fcall("csr_place", 1, PLACEMENT, expected_term, table.to_json()))
    if current != expected_term:
        raise AliasMoved(f"placement: term is {current}, expected {expected_term}")


def _claim(name: str, key: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
