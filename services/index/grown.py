"""Which logs have something new, as far as anybody says so: a set, and a bell."""

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""Collection id and partition."""


class GrownLogs:
    """Collects the logs to look at. Belongs to one event loop, and has one reader."""

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._bell = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, places: Iterable[Place]) -> None:
        """Have these logs read soon, and wake the reader in any case."""
        self._places.update(places)
        self._bell.set()

    def take(self) -> set[Place]:
        """Return the logs to look at and forget them; what comes now rings the bell again."""
        taken, self._places = self._places, set()
        self._bell.clear()
        return taken

    def put_back(self, places: Iterable[Place]) -> None:
        """Add logs without ringing the bell: they are to be read, but not at once."""
        self._places.update(places)

    @property
    def bell(self) -> asyncio.Event:
        """Set by every `add` since the last `take`."""
        return self._bell
