"""Which processes the stack starts by itself."""

import pytest

from orchestration.stack.components import starts_redis
from services.runtime.settings import RedisSettings, Settings


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("redis://127.0.0.1:7379/0", True),
        ("redis://localhost:7379", True),
        ("redis://:secret@127.0.0.1:7379/0", False),
        ("rediss://127.0.0.1:7379/0", False),
        ("unix:///run/redis.sock", False),
        ("redis://redis.example:6379/0", False),
    ],
)
def test_the_stack_starts_a_redis_only_where_it_can_be_the_one_meant(
    url: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis without password or TLS, started beside the one that was meant, would take the writes instead of it."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert starts_redis(Settings(redis=RedisSettings(url=url))) is own


def test_redis_url_always_names_another_ones_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users set REDIS_URL to bring their own."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:7379/0")
    assert not starts_redis(Settings())
