"""The Redis of the cluster, run for real with its own configuration file and its placement Job."""

import asyncio
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from orchestration.cli import app as csr
from services.index.store.connection import connect
from services.index.store.functions import StorePolicy, ensure_functions
from services.index.store.placement import PlacementTable, read_placement
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import CONFIG_VARIABLE, RedisSettings
from tests.k8s.conftest import BASE
from tests.support.manifests import Manifest, containers, quantity
from tests.support.redis_server import free_port

CONFIG = BASE / "config" / "redis.conf"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    """A server that reads redis.conf; only where it listens and writes is this test's own."""
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [str(find_redis_server()), str(CONFIG), "--port", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        _wait(port, server)
        yield RedisSettings(url=f"redis://127.0.0.1:{port}/0")
    finally:
        server.kill()
        server.wait()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert server.poll() is None, f"{CONFIG} is refused"
                assert time.monotonic() < deadline
                time.sleep(0.05)


async def test_the_store_keeps_what_it_acknowledges(store: RedisSettings) -> None:
    """A crash of Redis would lose acknowledged writes, or a full one would drop documents."""
    client = connect(store, "test")
    try:
        # Refuses any policy that evicts.
        assert await ensure_functions(client) == StorePolicy(appendfsync="always")
    finally:
        await client.aclose()


def test_the_store_fits_its_container(base: Mapping[str, Manifest], store: RedisSettings) -> None:
    """The kernel would kill Redis during a rewrite of its file, which copies what changes meanwhile."""
    (container,) = containers(base["StatefulSet/redis"]).values()
    with redis.Redis.from_url(store.url) as client:
        maxmemory = int(client.config_get("maxmemory")["maxmemory"])
    assert 0 < 2 * maxmemory <= quantity(container["resources"]["limits"]["memory"])


def test_the_store_reads_the_file_that_is_mounted(base: Mapping[str, Manifest]) -> None:
    """Redis would not start, run with its defaults, or write its file to a disk that goes with the pod."""
    (container,) = containers(base["StatefulSet/redis"]).values()
    file = Path(container["command"][1])
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    (data,) = (manifest["data"] for name, manifest in base.items() if name.startswith("ConfigMap/redis-config"))
    assert str(file.parent) in mounted
    assert data[file.name] == CONFIG.read_text()
    assert container["workingDir"] in mounted


def test_the_placement_job_puts_its_table_in_force(
    base: Mapping[str, Manifest], store: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new cluster would have no placement, and no index server would ever own a partition."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(BASE / "config" / "csr.toml"))
    monkeypatch.setenv("REDIS_URL", store.url)
    (container,) = containers(base["Job/placement"]).values()
    program, *words = container["command"]
    assert program == "csr"
    for _ in range(2):  # again, as every apply does
        done = CliRunner().invoke(csr, [*words, *container["args"]])
        assert done.exit_code == 0, done.output
    table = asyncio.run(_placement(store))
    assert [f"{server.name}={server.address}" for server in table.servers] == container["args"]
    assert table.term == 1


async def _placement(store: RedisSettings) -> PlacementTable:
    client = connect(store, "test")
    try:
        return await read_placement(client)
    finally:
        await client.aclose()
