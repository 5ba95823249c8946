"""A real index server in a process of its own, which a test may kill and start again on the same ports."""

from pathlib import Path

from tests.support.service_process import ServiceProcess


class IndexServerProcess(ServiceProcess):
    """`python -m services.index` under a name of the placement table.

    Args:
        redis_url: Where the store is.
        folder: Where its log goes.
        name: Its name in the placement table.
        settings: Further settings, as environment variables (`CSR_INDEX__POLL_MAX_MS="5"`).
    """

    def __init__(self, redis_url: str, folder: Path, name: str = "index-0", **settings: str) -> None:
        super().__init__("index", name, folder, **{"REDIS_URL": redis_url, "CSR_INDEX__NAME": name, **settings})
