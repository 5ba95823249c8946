"""The meta hash of a partition: its state and the head of its log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.index.store.entry import EMPTY_STATE_DIGEST, GENESIS_CHAIN
from services.runtime.errors import CorruptRecord, WrongState

FORMAT: Final = 2
"""Layout of all keys of a partition, as the functions write it.

Format 1 had no `p` in log entries, and chains without it; records are alike. The first write turns 1 into 2.
"""
FIELDS: Final = ("format", "state", "term", "lsn", "chain", "digest", "documents")
FIRST_TERM: Final = 1

PartitionStateName = Literal["open", "frozen", "closed"]


@dataclass(frozen=True, slots=True)
class PartitionMeta:
    """A partition at one position of its log.

    Attributes:
        state: `open` takes writes, `frozen` does not for now, `closed` never again.
        term: Revision of the collection's record that writers must know at least; older ones are refused.
        lsn: Position of the last entry; 0 before the first.
        chain: Chain of the last entry, 20 bytes.
        digest: State digest, 20 bytes.
        documents: Live documents.
    """

    state: PartitionStateName
    term: int
    lsn: int
    chain: bytes
    digest: bytes
    documents: int


def new_partition_fields() -> dict[str, str | int]:
    """Return the fields that create a partition. Only the catalogue does; functions never create meta."""
    return {
        "format": FORMAT,
        "state": "open",
        "term": FIRST_TERM,
        "lsn": 0,
        "chain": GENESIS_CHAIN.hex(),
        "digest": EMPTY_STATE_DIGEST.hex(),
        "documents": 0,
    }


def parse_meta(values: Sequence[bytes | None]) -> PartitionMeta | None:
    """Return the meta behind the values of FIELDS; None when the partition does not exist.

    Raises:
        WrongState: a newer release of this system wrote the partition.
        CorruptRecord: fields are missing or make no sense.
    """
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) < len(FIELDS):
        raise CorruptRecord(f"partition meta: {len(present)} of {len(FIELDS)} fields")
    layout, state, term, lsn, chain, digest, documents = present
    try:
        if int(layout) > FORMAT:
            raise WrongState(f"partition format {int(layout)}: this release reads up to {FORMAT}; upgrade it")
        return PartitionMeta(
            state=_state_name(state.decode()),
            term=int(term),
            lsn=int(lsn),
            chain=bytes.fromhex(chain.decode()),
            digest=bytes.fromhex(digest.decode()),
            documents=int(documents),
        )
    except ValueError as error:
        raise CorruptRecord(f"partition meta: {error}") from None


def _state_name(text: str) -> PartitionStateName:
    match text:
        case "open" | "frozen" | "closed":
            return text
    raise ValueError(f"state {text!r}")
