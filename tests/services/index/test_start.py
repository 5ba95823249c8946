"""How an index server starts, refuses to start, and stops."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from services.runtime.errors import CsrError
from services.runtime.redis_binary import find_redis_server
from tests.services.index.world import World, place, random_code, search
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer, free_port
from tests.support.service_process import ROOT


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m services.index` to its end."""
    free = {"CSR_INDEX__PORT": "0", "CSR_INDEX__METRICS_PORT": "0"}
    return subprocess.run(
        [sys.executable, "-m", "services.index", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **free, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_settings_can_be_checked_without_starting() -> None:
    """A typo in a ConfigMap would be found by a crashing pod only."""
    assert run("--check-config").returncode == 0
    refused = run("--check-config", CSR_INDEX__THREADS="-1")
    assert refused.returncode == 1
    assert "index.threads" in refused.stderr


@pytest.mark.parametrize("setting", ["CSR_INDEX__PORT", "CSR_INDEX__METRICS_PORT"])
def test_a_taken_port_is_named_in_one_line(setting: str) -> None:
    """Two servers on one port would share its requests, or fail with a traceback that hides the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run(CSR_INDEX__NAME="index-7", **{setting: port})
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith("index-7: ")
    assert port in line


def test_an_unreachable_redis_is_named_in_one_line_without_its_password() -> None:
    """A wrong REDIS_URL would look like a server that hangs, or its password would end up in logs."""
    port = free_port()
    refused = run(REDIS_URL=f"redis://user:secret@127.0.0.1:{port}/0", CSR_REDIS__TIMEOUT_SECONDS="0.2")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "REDIS_URL" in line
    assert "secret" not in refused.stdout + refused.stderr


def test_an_address_that_is_none_is_named_in_one_line() -> None:
    """A typo in REDIS_URL would end in a traceback."""
    refused = run(REDIS_URL="127.0.0.1:6379")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "redis.url" in line


async def test_a_server_waits_for_a_redis_that_starts_later(tmp_path: Path) -> None:
    """Processes of a stack that start together would have to be started in the right order."""
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    server = IndexServerProcess(store.url, tmp_path)
    try:
        server.start(wait=False)
        await asyncio.sleep(1.0)
        assert not server.serving()
        store.start()
        server.wait_until_serving()
        assert server.stop() == 0
    finally:
        server.kill()
        store.kill()


async def test_requests_in_flight_are_answered_before_a_server_stops(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """Every rolling restart would fail searches that were being answered."""
    [server, *_] = frail_servers
    await place(frail_client, [server])
    world = await World.create(frail_client)
    code = random_code(rng)
    await world.upsert({f"doc-{i}": code for i in range(8)})
    await search(server, world.record, [code], positions=world.positions)
    ahead = {partition: lsn + 1 for partition, lsn in world.positions.items()}
    waiting = asyncio.create_task(search(server, world.record, [code], positions=ahead, timeout=5.0))
    await asyncio.sleep(0.2)
    stopped = asyncio.create_task(asyncio.to_thread(server.stop))
    await asyncio.sleep(0.2)
    await world.upsert({f"doc-{i}": code for i in range(8)})
    answer = await waiting
    assert answer.hits == world.expected([code], answer.positions)
    assert await stopped == 0
    server.start()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_a_server_at_once(
    tmp_path: Path,
    frail_store: RedisServer,
    frail_client: Redis,
    frail_servers: list[IndexServerProcess],
    rng: np.random.Generator,
    signal_number: int,
) -> None:
    """An operator in a hurry would have to wait for the whole drain, or reach for SIGKILL."""
    server = IndexServerProcess(frail_store.url, tmp_path, "index-hurried", CSR_INDEX__DRAIN_SECONDS="60")
    await place(frail_client, [server])
    server.start()
    world = await World.create(frail_client)
    asked = asyncio.create_task(search(server, world.record, [random_code(rng)], positions={0: 1}, timeout=60.0))
    await asyncio.sleep(0.3)
    process = server.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(1.0)
    assert process.poll() is None, "it waits for the request"
    process.send_signal(signal_number)
    assert await asyncio.to_thread(process.wait, 5) == -signal_number
    with pytest.raises(CsrError):
        await asked
    await place(frail_client, frail_servers[:1])
