"""The end of the process: no stage waits for ever, each leaves a line in the log, and the last cannot be missed."""

import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Awaitable
from typing import Final, NoReturn

import structlog

log = structlog.get_logger()

EXIT_SECONDS: Final = 5.0
"""Longest that a stop may take beyond the grace of requests in flight; then the process ends as it stands."""
_CANCEL_AGAIN_SECONDS: Final = 0.2


def end_within(seconds: float) -> None:
    """Make sure that this process ends: by a second signal at once, else after so many seconds with exit code 1.

    In the second case standard error tells what every thread was doing. Neither needs the event loop, or the
    interpreter, to be well. Call it in the event loop.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    faulthandler.dump_traceback_later(seconds, exit=True)


async def stage(name: str, work: Awaitable[object], seconds: float) -> None:
    """Wait for one stage of the stop, but no longer than that; what is late or fails is logged and left behind."""
    started = time.monotonic()
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    took = round(time.monotonic() - started, 3)
    if not task.done():
        log.warning("stage of the stop left behind", stage=name, seconds=took)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.error("stage of the stop failed", stage=name, seconds=took, exc_info=error)
    else:
        log.info("stage of the stop done", stage=name, seconds=took)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended: a library may take a single cancellation for a timeout of its own."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)


def leave(code: int) -> NoReturn:
    """End the process now: the interpreter's own end would wait for threads whose results nobody needs any more.

    grpc.aio's own thread is one of them, and may never end (https://github.com/grpc/grpc/pull/40989).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
