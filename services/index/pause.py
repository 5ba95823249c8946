"""Pauses between attempts: growing while nothing happens, cut short when somebody waits."""

import asyncio
from contextlib import suppress


class Pause:
    """Doubles from `shortest` to `longest` seconds until it is reset."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest, self._longest = shortest, longest
        self._seconds = shortest

    def next(self) -> float:
        """Return the pause to make now, in seconds; the one after it is twice as long."""
        seconds = self._seconds
        self._seconds = min(2 * seconds, self._longest)
        return seconds

    def reset(self) -> None:
        """Begin again with the shortest."""
        self._seconds = self._shortest


async def pause_unless(event: asyncio.Event, seconds: float) -> None:
    """Sleep, but only until the event is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
