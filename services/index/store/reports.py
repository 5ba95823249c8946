"""What index servers say of themselves every second or so, for routers that decide whether to send them more."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.keys import server_report_key

REPORT_SECONDS: Final = 5
"""A report that is older says nothing of its server any more, and is gone."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One index server.

    Attributes:
        name: In the placement table.
        memory_bytes: Resident memory.
        memory_limit_bytes: Behind this it takes no more documents.
        lag_entries: Log entries that it has not applied yet, over all its partitions.
    """

    name: str
    memory_bytes: int
    memory_limit_bytes: int
    lag_entries: int


async def report_server(redis: Redis, report: ServerReport) -> None:
    """Replace what a server last said; it lasts for REPORT_SECONDS.

    Raises:
        StoreUnavailable, StoreFull: Redis does not answer or refuses.
    """
    with store_errors(f"report server {report.name!r}"):
        await redis.set(server_report_key(report.name), json.dumps(asdict(report)), ex=REPORT_SECONDS)


async def read_reports(redis: Redis, names: Sequence[str]) -> dict[str, ServerReport]:
    """Return what servers last said, by name; one that is silent, or says what this release cannot read, is missing.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    if not names:
        return {}
    with store_errors("read reports of servers"):
        texts = await redis.mget([server_report_key(name) for name in names])
    reports = (_parse(text) for text in texts if text is not None)
    return {report.name: report for report in reports if report is not None}


def _parse(text: bytes) -> ServerReport | None:
    try:
        fields = json.loads(text)
        return ServerReport(
            str(fields["name"]),
            int(fields["memory_bytes"]),
            int(fields["memory_limit_bytes"]),
            int(fields["lag_entries"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
