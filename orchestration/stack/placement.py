"""Tell a deployment which index servers it has."""

from collections.abc import Sequence

from services.index.store.connection import connect
from services.index.store.functions import ensure_functions
from services.index.store.placement import IndexServer, PlacementTable, read_placement, write_placement
from services.runtime.errors import WrongState
from services.runtime.settings import RedisSettings

REPLICATION = 1


async def current_placement(settings: RedisSettings) -> PlacementTable | None:
    """Return the placement table in force, or None before the first one."""
    store = connect(settings)
    try:
        return await read_placement(store)
    except WrongState:
        return None
    finally:
        await store.aclose()


async def place(settings: RedisSettings, servers: Sequence[IndexServer]) -> PlacementTable:
    """Put a table with these servers in force, unless it is already; returns the table.

    Raises:
        StoreUnavailable: Redis does not answer.
        WrongState: Redis is not fit to be the store (version, eviction policy), or a newer release wrote to it.
        AliasMoved: another table was put in force at the same time.
    """
    current = await current_placement(settings)
    if current is not None and current.servers == tuple(servers):
        return current
    term = 0 if current is None else current.term
    table = PlacementTable(term + 1, REPLICATION, tuple(servers))
    store = connect(settings)
    try:
        await ensure_functions(store)
        await write_placement(store, table, expected_term=term)
    finally:
        await store.aclose()
    return table
