import pytest
from redis.asyncio import Redis

from services.index.store import reports
from services.index.store.keys import server_report_key
from services.index.store.reports import ServerReport, read_reports, report_server


async def test_the_last_report_of_every_server_is_read(redis: Redis) -> None:
    """Otherwise routers would send documents to servers that have no memory left."""
    await report_server(redis, ServerReport("index-0", 1, 100, 0))
    await report_server(redis, ServerReport("index-0", 95, 100, 7))
    await report_server(redis, ServerReport("index-1", 2, 200, 0))
    assert await read_reports(redis, ["index-1", "index-0", "index-2"]) == {
        "index-0": ServerReport("index-0", 95, 100, 7),
        "index-1": ServerReport("index-1", 2, 200, 0),
    }
    assert await read_reports(redis, []) == {}


async def test_reports_expire(redis: Redis) -> None:
    """Otherwise a server that died full would keep refusing documents."""
    await report_server(redis, ServerReport("index-3", 1, 100, 0))
    assert 0 < await redis.pttl(server_report_key("index-3")) <= 1_000 * reports.REPORT_SECONDS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name":"index-4","memory_bytes":"much"}'])
async def test_a_report_that_makes_no_sense_is_none(redis: Redis, text: str) -> None:
    """Otherwise one server of another release would stop all writes."""
    await redis.set(server_report_key("index-4"), text, ex=5)
    await report_server(redis, ServerReport("index-5", 1, 100, 0))
    assert (await read_reports(redis, ["index-4", "index-5"])).keys() == {"index-5"}
