"""What is measured: Redis, index servers, an encoder and a router, each a process of its own on free ports."""

import asyncio
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import redis
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.service_load.split import Processes, Samples
from orchestration.stack.components import health_not_ready
from orchestration.stack.placement import place
from orchestration.stack.processes import spawn
from services.index.store.placement import IndexServer
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import RedisSettings

MODEL: Final = "clustered"
"""Name of the one model that the encoder serves."""
MODEL_VERSION: Final = 1
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0


class DidNotStart(Exception):
    """A process of the deployment ended or was not ready in time; the text has the end of its log."""


@dataclass(frozen=True)
class Server:
    """A process that answers gRPC and has metrics."""

    address: str
    metrics_port: int

    def samples(self) -> Samples:
        """Return its metrics as they are now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5.0) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


@dataclass(frozen=True)
class Deployment:
    """Where everything answers."""

    router: Server
    encoder: Server
    index: tuple[Server, ...]

    def samples(self) -> Processes:
        """Return the metrics of all processes."""
        return Processes(self.router.samples(), self.encoder.samples(), [server.samples() for server in self.index])


@contextmanager
def deployment(folder: Path, adapter: Path, index_servers: int) -> Iterator[Deployment]:
    """Run a deployment until the block ends.

    Args:
        folder: For Redis' files and logs.
        adapter: The artifact that the encoder serves.
        index_servers: How many.

    Raises:
        DidNotStart: a process does not become ready.
    """
    with ExitStack() as running:
        settings = running.enter_context(redis_server(folder / "redis"))
        ports = iter(free_ports(2 * index_servers + 4))
        encoder, router = (Server(f"127.0.0.1:{next(ports)}", next(ports)) for _ in range(2))
        index = tuple(Server(f"127.0.0.1:{next(ports)}", next(ports)) for _ in range(index_servers))
        names = [f"index-{number}" for number in range(index_servers)]
        asyncio.run(
            place(settings, [IndexServer(name, server.address) for name, server in zip(names, index, strict=True)])
        )
        encoding = ["benchmarks.service_load.encoder", encoder.address, str(encoder.metrics_port), str(adapter)]
        parts: list[tuple[str, Server, list[str], dict[str, str]]] = [("encoder", encoder, encoding, {})]
        common = {"REDIS_URL": settings.url, "CSR_ENCODER__ADDRESS": encoder.address, "OMP_NUM_THREADS": "1"}
        for name, server in zip(names, index, strict=True):
            parts.append((name, server, ["services.index"], {"CSR_INDEX__NAME": name, **_listening("INDEX", server)}))
        parts.append(("router", router, ["services.router"], _listening("ROUTER", router)))
        for name, server, module, variables in parts:
            running.enter_context(_process(name, server.address, module, {**common, **variables}, folder))
        for name, server, _, _ in parts:
            _wait(name, partial(_serves, server.address), _log(folder, name))
        yield Deployment(router, encoder, index)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisSettings]:
    """Run an empty Redis as `csr up` does, durable after every command, until the block ends.

    Raises:
        DidNotStart: it does not answer.
    """
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "appendfsync": "always"}
    command = [str(find_redis_server())]
    for name, value in {**options, "save": "", "maxmemory-policy": "noeviction"}.items():
        command += [f"--{name}", str(value)]
    log = folder / "server.log"
    process = spawn("redis", command, {}, f"127.0.0.1:{port}", log)
    try:
        _wait("redis", partial(_answers, port), log)
        yield RedisSettings(url=f"redis://127.0.0.1:{port}/0", timeout_seconds=30.0)
    finally:
        process.stop(_STOP_SECONDS)


@contextmanager
def echo_server(folder: Path, answers: Mapping[str, bytes]) -> Iterator[str]:
    """Run the bare echo until the block ends, and yield its address.

    Args:
        folder: For its files.
        answers: By collection, the SearchResponse that it answers every search with.
    """
    found = folder / "echo"
    found.mkdir()
    for collection, answer in answers.items():
        (found / collection).write_bytes(answer)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with _process("echo", address, ["benchmarks.service_load.echo", address, str(found)], {}, folder):
        _wait("echo", partial(_serves, address), _log(folder, "echo"))
        yield address


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, no two alike."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in sockets]


@contextmanager
def _process(name: str, address: str, module: list[str], variables: Mapping[str, str], folder: Path) -> Iterator[None]:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # what we import is what it imports
    command = [sys.executable, "-P", "-m", *module]
    process = spawn(name, command, {**path, **variables}, address, _log(folder, name))
    try:
        yield
    finally:
        process.stop(_STOP_SECONDS)


def _log(folder: Path, name: str) -> Path:
    return folder / f"{name}.log"


def _listening(section: str, server: Server) -> dict[str, str]:
    port = server.address.rpartition(":")[2]
    return {f"CSR_{section}__PORT": port, f"CSR_{section}__METRICS_PORT": str(server.metrics_port)}


def _serves(address: str) -> bool:
    return health_not_ready(address) is None


def _answers(port: int) -> bool:
    with redis.Redis(port=port, socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _wait(name: str, ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-20:]
            raise DidNotStart("\n".join([f"{name} was not ready within {_START_SECONDS:.0f} s:", *lines]))
        time.sleep(0.05)
