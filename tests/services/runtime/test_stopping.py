"""The stop of a process: whatever hangs, it ends."""

import asyncio
import subprocess
import sys
import time

import pytest

from services.runtime.stopping import cancelled, stage
from tests.support.service_process import ROOT

HANGS = """
import asyncio, time
from services.runtime.stopping import end_within

async def serve() -> None:
    end_within(1.0)
    {hang}

asyncio.Runner().run(serve())
"""


@pytest.mark.parametrize("hang", ["time.sleep(60)", "await asyncio.Event().wait()"], ids=["thread", "loop"])
def test_a_stop_that_hangs_ends_and_says_where(hang: str) -> None:
    """One task that never ends would keep a process alive, and its pod, until somebody notices; nobody knew why."""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", HANGS.format(hang=hang)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert time.monotonic() - started < 30
    assert "most recent call first" in ended.stderr


async def test_a_task_that_loses_a_cancellation_ends() -> None:
    """A library that takes a cancellation for its own timeout would keep a follower, and its process, going."""
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancelled(task), 10)
    assert (lost, task.cancelled()) == (2, True)


async def test_a_stage_that_takes_too_long_is_left_behind() -> None:
    """A Redis that does not answer would hold up every stage after it."""
    late = asyncio.Event()
    started = time.monotonic()
    await stage("late", late.wait(), 0.1)
    assert time.monotonic() - started < 5
    late.set()


async def test_a_stage_that_fails_does_not_end_the_stop() -> None:
    """An error while connections are closed would keep the server's results from being reported."""

    async def fails() -> None:
        raise ConnectionError("gone")

    await stage("fails", fails(), 1.0)
