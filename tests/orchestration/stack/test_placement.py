"""Which index servers a deployment has."""

from collections.abc import Callable

import pytest

from orchestration.stack.placement import current_placement, place
from services.index.store.placement import IndexServer
from services.runtime.errors import StoreUnavailable
from services.runtime.settings import RedisSettings
from tests.support.redis_server import RedisServer, free_port

ONE = IndexServer("index-0", "127.0.0.1:7101")
TWO = IndexServer("index-1", "127.0.0.1:7102")


async def test_a_table_changes_only_with_its_servers(redis_server: Callable[..., RedisServer]) -> None:
    """Every `csr up` would move the term, and index servers would load everything again; or none would be placed."""
    settings = redis_server().settings
    assert await current_placement(settings) is None
    first = await place(settings, [ONE])
    assert (first.term, first.servers) == (1, (ONE,))
    assert await place(settings, [ONE]) == first
    second = await place(settings, [ONE, TWO])
    assert (second.term, second.servers) == (2, (ONE, TWO))
    assert await current_placement(settings) == second


async def test_a_store_that_is_down_is_named() -> None:
    """`csr servers` would end in a trace."""
    settings = RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0", timeout_seconds=1.0)
    with pytest.raises(StoreUnavailable):
        await place(settings, [ONE])
