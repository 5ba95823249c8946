"""Tokens: sets of log positions, on the wire and as mappings from partition to LSN."""

from collections.abc import Iterable, Mapping

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.runtime.errors import InvalidRequest, WrongState


def token_message(collection_id: str, positions: Mapping[int, int]) -> search_pb2.Token:
    """Return the token of these positions."""
    return search_pb2.Token(collection_id=collection_id, positions=position_messages(positions, sorted(positions)))


def position_messages(positions: Mapping[int, int], partitions: Iterable[int]) -> list[search_pb2.PartitionPosition]:
    """Return the positions of some partitions, in the order given; none for a partition without one."""
    return [
        search_pb2.PartitionPosition(partition=partition, lsn=positions[partition])
        for partition in partitions
        if partition in positions
    ]


def token_positions(token: search_pb2.Token, record: CollectionRecord) -> dict[int, int]:
    """Return the positions of a token that came with a request; none for an empty token.

    Raises:
        WrongState: the token belongs to another collection, such as a deleted one of the same name.
        InvalidRequest: a partition that the collection does not have, or more positions than partitions.
    """
    if not token.collection_id and not token.positions:
        return {}
    if token.collection_id != record.collection_id:
        raise WrongState(
            f"token.collection_id: {token.collection_id[:40] or 'none'}, collection {record.name!r} now has "
            f"{record.collection_id}"
        )
    if len(token.positions) > record.partitions:
        raise InvalidRequest(
            f"token.positions: {len(token.positions)}, the collection has {record.partitions} partitions"
        )
    for position in token.positions:
        if position.partition >= record.partitions:
            raise InvalidRequest(
                f"token.positions: partition {position.partition}, the collection has 0..{record.partitions - 1}"
            )
    return highest(token.positions)


def highest(positions: Iterable[search_pb2.PartitionPosition]) -> dict[int, int]:
    """Return the highest LSN of each partition."""
    result: dict[int, int] = {}
    for position in positions:
        result[position.partition] = max(position.lsn, result.get(position.partition, 0))
    return result
