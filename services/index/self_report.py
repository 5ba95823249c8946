"""Tells routers, through Redis, how full this server is and how far behind."""

import asyncio
from typing import Final

from redis.asyncio import Redis

from services.index.failures import report
from services.index.follower import Follower
from services.index.memory import MemoryGuard, resident_bytes
from services.index.store.reports import ServerReport, report_server

REPORT_SECONDS: Final = 1.0


async def report_self_forever(redis: Redis, name: str, follower: Follower, memory: MemoryGuard) -> None:
    """Report every second until cancelled; while Redis cannot take it, routers know nothing of this server."""
    failed = False
    while True:
        lag = sum(held.lag for held in follower.held)
        try:
            await report_server(redis, ServerReport(name, resident_bytes(), memory.limit_bytes, lag))
            failed = False
        except Exception as error:
            if not failed:
                report("server not reported", error)
            failed = True
        await asyncio.sleep(REPORT_SECONDS)
