"""A `csr` whose stack was not started."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.runtime.redis_binary import find_redis_server
from tests.support.redis_server import RedisServer
from tests.support.stack import LocalStack


@pytest.fixture
def local(tmp_path: Path) -> LocalStack:
    """Free ports and an empty data folder; no registry and no Ray behind them, for what fails before these are used."""
    return LocalStack(tmp_path / "data", f"sqlite:///{tmp_path / 'mlflow.db'}", {"RAY_ADDRESS": "127.0.0.1:9"})


@pytest.fixture
def taken(local: LocalStack) -> Iterator[Callable[[int], None]]:
    """Return a function that takes a port, as a process of somebody else would."""
    listeners: list[socket.socket] = []

    def take(port: int) -> None:
        listeners.append(socket.create_server(("127.0.0.1", port)))

    yield take
    for listener in listeners:
        listener.close()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a Redis with options."""
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(find_redis_server(), tmp_path / f"redis-{len(servers)}", *options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
