from collections import Counter

import pytest
from redis.asyncio import Redis

from services.index.store.keys import PLACEMENT
from services.index.store.placement import IndexServer, PlacementTable, read_placement, write_placement
from services.runtime.errors import AliasMoved, InvalidRequest, WrongState

PARTITIONS = [(f"{collection:016x}", partition) for collection in range(64) for partition in range(16)]


def _table(*names: str, term: int = 1, replication: int = 1) -> PlacementTable:
    servers = tuple(IndexServer(name, f"10.0.0.{number}:7101") for number, name in enumerate(names))
    return PlacementTable(term, replication, servers)


def test_partitions_spread_evenly() -> None:
    """Otherwise one index server would need far more memory than its neighbours."""
    table = _table("index-0", "index-1", "index-2", "index-3")
    held = Counter(table.owner(*partition).name for partition in PARTITIONS)
    share = len(PARTITIONS) / 4
    assert all(0.8 * share < count < 1.2 * share for count in held.values())
    assert len(held) == 4


def test_a_new_server_takes_partitions_and_moves_no_others() -> None:
    """Otherwise adding a server would reload nearly everything everywhere."""
    before, after = _table("index-0", "index-1", "index-2"), _table("index-0", "index-1", "index-2", "index-3")
    moved = [p for p in PARTITIONS if before.owner(*p).name != after.owner(*p).name]
    assert {after.owner(*partition).name for partition in moved} == {"index-3"}
    assert 0.8 * len(PARTITIONS) / 4 < len(moved) < 1.2 * len(PARTITIONS) / 4


def test_addresses_and_the_order_of_servers_do_not_move_partitions() -> None:
    """Otherwise restarting the stack on other ports would reload everything."""
    here, there = _table("a", "b", "c"), _table("c", "b", "a")
    assert all(here.owner(*partition).name == there.owner(*partition).name for partition in PARTITIONS)


def test_replicas_are_different_servers_and_the_owner_is_the_first() -> None:
    """Otherwise losing one server could lose both copies of a partition."""
    table = _table("a", "b", "c", replication=2)
    for partition in PARTITIONS:
        owners = table.owners(*partition)
        assert len({server.name for server in owners}) == 2
        assert owners[0] == table.owner(*partition)


@pytest.mark.parametrize(("names", "replication"), [((), 1), (("a", "a"), 1), (("a",), 2), (("a",), 0)])
def test_impossible_tables_are_refused(names: tuple[str, ...], replication: int) -> None:
    """Otherwise partitions would silently have fewer copies than asked for, or no owner."""
    with pytest.raises(InvalidRequest, match="placement"):
        _table(*names, replication=replication)


def test_a_table_of_a_newer_format_is_refused() -> None:
    """Otherwise an old router would send requests to the wrong servers."""
    text = _table("a").to_json().replace('"format":1', '"format":2')
    with pytest.raises(WrongState, match="upgrade"):
        PlacementTable.from_json(text)


async def test_tables_change_by_compare_and_set(redis: Redis) -> None:
    """Otherwise two operators who change the placement at once would overwrite each other."""
    await redis.delete(PLACEMENT)
    with pytest.raises(WrongState, match="no placement"):
        await read_placement(redis)
    first, second = _table("a"), _table("a", "b", term=2)
    await write_placement(redis, first, expected_term=0)
    with pytest.raises(AliasMoved):
        await write_placement(redis, second, expected_term=0)
    assert await read_placement(redis) == first
    await write_placement(redis, second, expected_term=1)
    assert await read_placement(redis) == second
    with pytest.raises(InvalidRequest, match="term"):
        await write_placement(redis, _table("c", term=2), expected_term=2)
