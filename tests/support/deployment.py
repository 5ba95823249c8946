"""Redis, index servers, an encoder and a router: real processes, except that the encoder is not Ray Serve."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from services.client import Client
from services.index.store.connection import connect
from services.index.store.functions import ensure_functions
from services.index.store.placement import IndexServer, PlacementTable, read_placement, write_placement
from services.runtime.errors import WrongState
from services.runtime.redis_binary import find_redis_server
from tests.support.encoder_server import EncoderServer, tiny_adapter
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer
from tests.support.service_process import ServiceProcess

MODEL = "adapter"


class Deployment:
    """Everything that answers a search, on free ports, in a folder of its own.

    Args:
        folder: Where Redis keeps its files, and all write their logs.
        index_servers: How many.
        redis: The store; one with `appendfsync always` if none is given.
        settings: Further settings of router and index servers, as environment variables.

    Attributes:
        encoder: Serves MODEL in versions 1 and 2; 2 is the champion.
    """

    def __init__(self, folder: Path, index_servers: int = 2, redis: RedisServer | None = None, **settings: str) -> None:
        self.redis = redis or RedisServer(find_redis_server(), folder / "redis")
        self.encoder = EncoderServer({(MODEL, 1): tiny_adapter(1), (MODEL, 2): tiny_adapter(2)})
        self.index_servers = [
            IndexServerProcess(self.redis.url, folder, f"index-{number}", **{"CSR_INDEX__POLL_MAX_MS": "5", **settings})
            for number in range(index_servers)
        ]
        self.router = ServiceProcess(
            "router",
            "router",
            folder,
            **{
                "REDIS_URL": self.redis.url,
                "CSR_REDIS__TIMEOUT_SECONDS": "10",  # a busy disk may take seconds to flush
                "CSR_ENCODER__ADDRESS": self.encoder.address,
                "CSR_ROUTER__REFRESH_SECONDS": "0.2",
                **settings,
            },
        )

    def start(self) -> None:
        """Start everything and wait until it serves."""
        self.redis.start()
        self.encoder.start()
        self.place(self.index_servers)
        for server in self.index_servers:
            server.start(wait=False)
        self.router.start(wait=False)
        for process in (*self.index_servers, self.router):
            process.wait_until_serving()

    def heal(self) -> None:
        """Start what does not run, and wait until everything serves."""
        if not self.redis.running:
            self.redis.start(wait=False)
        self.redis.wait_until_answering()
        if not self.encoder.running:
            self.encoder.start()
        for process in (*self.index_servers, self.router):
            if not process.running:
                process.start(wait=False)
        for process in (*self.index_servers, self.router):
            process.wait_until_serving()

    def stop(self) -> None:
        """End everything, whatever state it is in."""
        for process in (self.router, *self.index_servers):
            if process.process is not None:
                process.kill()
        self.encoder.stop()
        self.redis.kill()

    def client(self, timeout_seconds: float = 10.0) -> Client:
        """Return a client of the router."""
        return Client(self.router.address, timeout_seconds)

    def place(self, servers: Sequence[IndexServerProcess]) -> None:
        """Make these the index servers, from the next term on."""
        asyncio.run(self._place(servers))

    async def _place(self, servers: Sequence[IndexServerProcess]) -> None:
        async with connect(self.redis.settings) as store:
            await ensure_functions(store)
            try:
                term = (await read_placement(store)).term
            except WrongState:
                term = 0
            table = PlacementTable(term + 1, 1, tuple(IndexServer(server.name, server.address) for server in servers))
            await write_placement(store, table, term)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The session's deployment of two index servers, for tests that hurt nothing and use names of their own."""
    shared = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        shared.start()
        yield shared
    finally:
        shared.stop()


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once the check holds.

    Raises:
        AssertionError: it did not within that time.
    """
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.05)
