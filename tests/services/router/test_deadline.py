import asyncio
import time

import pytest

from services.router.deadline import Deadline
from services.runtime.errors import DeadlineSpent


def test_what_remains_leaves_time_for_the_answer() -> None:
    """Callers would see a bare timeout instead of what was slow."""
    deadline = Deadline(time.monotonic() + 1.0)
    assert 0.9 < deadline.remaining() < 1.0


def test_nothing_remains_after_the_deadline() -> None:
    """Work would go on for callers who left."""
    with pytest.raises(DeadlineSpent):
        Deadline(time.monotonic()).remaining()


async def test_a_block_is_stopped_at_the_deadline() -> None:
    """A hanging store would hold requests beyond their deadline."""
    started = time.monotonic()
    with pytest.raises(DeadlineSpent):
        async with Deadline(started + 0.1).enforced():
            await asyncio.sleep(60)
    assert time.monotonic() - started < 1.0
