"""Tokens to and from messages. Pure."""

from collections.abc import Iterable

from csr.v1 import search_pb2
from services.client.types import Token


def token_message(token: Token | None) -> search_pb2.Token | None:
    """Return the message of a token, None for none."""
    if token is None:
        return None
    return search_pb2.Token(
        collection_id=token.collection_id,
        positions=[
            search_pb2.PartitionPosition(partition=partition, lsn=lsn)
            for partition, lsn in sorted(token.positions.items())
        ],
    )


def token_of(message: search_pb2.Token) -> Token:
    """Return the token of a message."""
    return Token(message.collection_id, {position.partition: position.lsn for position in message.positions})


def joined(messages: Iterable[search_pb2.Token]) -> Token:
    """Return a token that covers all of these, at least one; of several collections, those of the last."""
    tokens = list(messages)
    collection_id = tokens[-1].collection_id
    positions: dict[int, int] = {}
    for token in tokens:
        if token.collection_id == collection_id:
            for position in token.positions:
                positions[position.partition] = max(position.lsn, positions.get(position.partition, 0))
    return Token(collection_id, positions)
