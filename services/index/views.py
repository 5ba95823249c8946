"""What a request may read: waits until partitions are ready and positions visible, within its deadline."""

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from services.index.collection import CollectionIndex
from services.index.follower import Follower
from services.index.generation import GenerationIndex, Published
from services.runtime.errors import CsrError, DeadlineSpent, PartitionUnavailable, WrongOwner, WrongState

OPENING_SECONDS: Final = 1.0
"""Longest wait for partitions that are being loaded: enough for a collection that was just created."""
_PARTIAL_SHARE: Final = 0.5
"""Share of its time that a request waits for missing partitions which it can do without."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request wants to see.

    Attributes:
        partitions: Of these partitions.
        positions: At least at these positions.
        deadline: By this time of the event loop.
        partial: Less will do, but not nothing.
    """

    partitions: frozenset[int]
    positions: Mapping[int, int]
    deadline: float
    partial: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What a request sees.

    Attributes:
        index: The generation.
        published: One state of it.
        partitions: What is exact in it, at positions that `published` has.
        complete_until: Everything acknowledged before, as time.monotonic tells it, is there.
    """

    index: GenerationIndex
    published: Published
    partitions: frozenset[int]
    complete_until: float

    @property
    def staleness(self) -> float:
        """For how many seconds, as of now, writes may have been acknowledged that are not there."""
        return max(time.monotonic() - self.complete_until, 0.0)


class Views:
    """Finds what requests ask for."""

    def __init__(self, name: str, follower: Follower) -> None:
        self._name = name
        self._follower = follower

    async def collection(
        self, collection_id: str, partitions: Collection[int], generation: int | None = None
    ) -> CollectionIndex:
        """Return the collection when this server holds the partitions and it has this generation.

        What is unknown may be news: placement and catalogue are read once more before the request is refused.

        Raises:
            WrongOwner: a partition is not held here.
            WrongState: the collection has no such generation.
        """
        refreshed = False
        while True:
            collection = self._follower.collections.get(collection_id)
            missing = set(partitions) - (set() if collection is None else collection.held.keys())
            if collection is not None and not missing and (generation is None or generation in collection.generations):
                return collection
            if not refreshed:
                await self._follower.refresh()
                refreshed = True
            elif missing:
                names = ", ".join(map(str, sorted(missing)))
                raise WrongOwner(f"partitions: {self._name} does not hold {names} of collection {collection_id!r}")
            else:
                raise WrongState(f"generation: collection {collection_id!r} has no generation {generation}")

    async def view(self, collection: CollectionIndex, generation: int, wanted: Wanted) -> View:
        """Return a state in which the partitions are ready and at or behind the wanted positions.

        Raises:
            PartitionUnavailable: one is not ready; if less will do, none is.
            DeadlineSpent: positions were not reached in time.
            WrongOwner: the collection was dropped meanwhile.
        """
        index = collection.generations[generation]
        loop = asyncio.get_running_loop()
        begun, deadline = loop.time(), wanted.deadline
        if wanted.partial:
            deadline = begun + min(_PARTIAL_SHARE * (deadline - begun), OPENING_SECONDS)
        opening = min(begun + OPENING_SECONDS, deadline)
        while True:
            self._require_open(collection)
            published = index.published
            unready = wanted.partitions - published.positions.keys()
            behind = _behind(published, wanted)
            if not unready and not behind:
                return self._view(collection, index, published, wanted.partitions)
            found = wanted.partitions - unready - behind
            if wanted.partial and found and not behind and _given_up(collection, unready):
                return self._view(collection, index, published, found)
            if behind:
                self._follower.hurry(collection, behind)
            try:
                async with asyncio.timeout_at(opening if unready else deadline):
                    await collection.changed()
            except TimeoutError:
                if wanted.partial and found:
                    return self._view(collection, index, published, found)
                raise _too_late(collection, published, unready, behind, wanted) from None

    async def reached(self, collection: CollectionIndex, wanted: Wanted) -> None:
        """Return when all generations show the wanted positions.

        Raises:
            DeadlineSpent, PartitionUnavailable, WrongOwner: as `view`.
        """
        for generation in sorted(collection.generations):
            if generation in collection.generations:  # one may go meanwhile
                await self.view(collection, generation, wanted)

    def _view(
        self, collection: CollectionIndex, index: GenerationIndex, published: Published, partitions: frozenset[int]
    ) -> View:
        # A partition that has left while the request waited is still in what was published before.
        held = (collection.held[number] for number in partitions if number in collection.held)
        complete = min(map(self._follower.complete_until, held), default=-math.inf)
        return View(index, published, partitions, complete)

    def _require_open(self, collection: CollectionIndex) -> None:
        if collection.closed:
            raise WrongOwner(f"collection_id: {self._name} no longer holds {collection.record.collection_id!r}")


def _behind(published: Published, wanted: Wanted) -> frozenset[int]:
    return frozenset(
        partition
        for partition in wanted.partitions & published.positions.keys()
        if published.positions[partition] < wanted.positions.get(partition, 0)
    )


def _given_up(collection: CollectionIndex, unready: frozenset[int]) -> bool:
    """Return whether no partition is likely to become ready while a request waits: all failed to load before."""
    return all(number in collection.held and collection.held[number].problem for number in unready)


def _too_late(
    collection: CollectionIndex,
    published: Published,
    unready: frozenset[int],
    behind: frozenset[int],
    wanted: Wanted,
) -> CsrError:
    if unready:
        held = [collection.held[number] for number in unready if number in collection.held]
        why = "; ".join(["they are being loaded", *sorted({partition.problem for partition in held} - {""})])
        return PartitionUnavailable(f"partitions: {sorted(unready)} are not ready: {why}")
    partition = min(behind)
    return DeadlineSpent(
        f"positions: partition {partition} is at {published.positions[partition]}, "
        f"{wanted.positions[partition]} was not visible before the deadline"
    )
