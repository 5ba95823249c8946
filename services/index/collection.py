"""One collection in this server: the partitions that it holds, and one engine for each live generation."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

from services.index.generation import DecodedChanges, GenerationIndex
from services.index.partition import Changes, Partition
from services.index.store.catalog import CollectionRecord
from services.index.store.entry import decode_body
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail, TailBatch

LogRead: TypeAlias = tuple[PartitionTail, TailBatch]
"""Where a read of a log began, and what it found."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition at the position that it was last published at."""

    lsn: int
    documents: int
    state_digest: str


class HeldPartition:
    """A partition that placement gives to this server.

    Attributes:
        head_lsn: Head of the log when it was last read.
        stale: The log cannot be followed from here: the partition must be loaded.
        settled: Loaded once, or found to be unreadable; a server that starts waits for this.
        problem: Why the last attempt to load it failed; empty when it succeeded.
    """

    def __init__(self, collection_id: str, partition: int) -> None:
        self.state = Partition(collection_id, partition)
        self.head_lsn = 0
        self.stale = True
        self.settled = False
        self.problem = ""
        self.status = self._status()

    @property
    def tail(self) -> PartitionTail:
        """Where to read on in the log."""
        return self.state.tail

    @property
    def lag(self) -> int:
        """Entries in the log that are not visible yet."""
        return max(self.head_lsn - self.status.lsn, 0)

    def can_follow(self, start: PartitionTail) -> bool:
        """Return whether what was read from `start` on comes next."""
        return not self.stale and self.tail == start

    def report(self) -> None:
        """Let `status` show the state as it is now."""
        self.status = self._status()

    def _status(self) -> PartitionStatus:
        return PartitionStatus(self.state.tail.lsn, len(self.state.live), self.state.state_digest.hex())


class CollectionIndex:
    """Applies logs to engines off the event loop and publishes the results on it.

    Belongs to one event loop. Changes happen one after the other, each published as a whole: see `Published`.
    """

    def __init__(self, record: CollectionRecord, executor: Executor) -> None:
        self.record = record
        self.held: dict[int, HeldPartition] = {}
        self.generations: dict[int, GenerationIndex] = {}
        self._executor = executor
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self.closed = False

    def ready(self, partition: int) -> bool:
        """Return whether searches of the active generation are answered for a partition."""
        return partition in self.generations[self.record.active.generation].published.positions

    async def update(self, record: CollectionRecord, partitions: frozenset[int]) -> None:
        """Follow the catalogue and placement: hold these partitions in these generations.

        Partitions that are new, and all of them when a generation is, become stale: to be loaded.
        """
        async with self._changing:
            self.record = record
            live = {generation.generation: generation for generation in record.generations}
            added = {
                number: GenerationIndex(generation, record.k_max)
                for number, generation in live.items()
                if number not in self.generations
            }
            self.generations = {number: index for number, index in self.generations.items() if number in live} | added
            released = [partition for partition in self.held if partition not in partitions]
            if released:
                await self._release(released)
            for partition in sorted(partitions - self.held.keys()):
                self.held[partition] = HeldPartition(record.collection_id, partition)
            if added:
                for held in self.held.values():
                    held.stale = True

    async def follow(self, reads: Sequence[LogRead]) -> None:
        """Apply what was read from the logs as one change; reads that partitions have moved away from are dropped.

        Raises:
            CorruptRecord, WrongState: a body that this release cannot read; the partitions are withdrawn.
        """
        async with self._changing:
            states = {
                start.partition: (self.held[start.partition].state, batch)
                for start, batch in reads
                if start.partition in self.held and self.held[start.partition].can_follow(start)
            }
            await self._change(
                states.keys(),
                lambda: {number: state.apply(batch.entries, batch.tail) for number, (state, batch) in states.items()},
            )
            self._publish(states.keys())

    async def load(self, partition: int, load: PartitionLoad) -> None:
        """Replace a partition by what was loaded; it is ready then, and its log can be followed.

        Raises:
            CorruptRecord, WrongState: as `follow`.
        """
        async with self._changing:
            held = self.held[partition]
            await self._change((partition,), lambda: {partition: held.state.replace(load)})
            held.stale, held.settled, held.problem = False, True, ""
            held.head_lsn = max(held.head_lsn, load.tail.lsn)
            self._publish((partition,), loaded=True)

    async def withdraw(self, partitions: Iterable[int]) -> None:
        """Stop answering for partitions until they are loaded again."""
        async with self._changing:
            self._withdraw(partitions)

    async def changed(self) -> None:
        """Wait until something else is published, or the collection is closed."""
        await self._changed.wait()

    def close(self) -> None:
        """Tell those who wait that nothing will be published any more."""
        self.closed = True
        self._announce()

    def use_merged(self) -> None:
        """Let searches use the segments that were merged since the last change, which frees those they came from.

        A change that is going on publishes them itself, when it is complete.
        """
        if not self._changing.locked():
            for generation in self.generations.values():
                generation.publish(generation.published.positions, generation.published.held)

    async def _release(self, partitions: Iterable[int]) -> None:
        """Forget partitions and free their documents."""
        self._withdraw(partitions)
        gone = {partition: self.held.pop(partition).state for partition in partitions}
        await self._change((), lambda: {partition: state.clear() for partition, state in gone.items()})
        self._publish(())

    async def _change(self, partitions: Iterable[int], change: Callable[[], Mapping[int, Changes]]) -> None:
        """Run a change of partitions and bring its effect into the engines, off the event loop."""
        engines = list(self.generations.values())

        def work() -> None:
            decoded = _decode(change())
            for engine in engines:
                engine.write(decoded)

        changing = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            await asyncio.shield(changing)
        except BaseException:
            # Failed or cancelled: some engines may have the change and others not. A load makes them agree again.
            await asyncio.wait([changing])
            self._withdraw(partitions)
            raise

    def _withdraw(self, partitions: Iterable[int]) -> None:
        leaving = self.held.keys() & set(partitions)
        for partition in leaving:
            self.held[partition].stale = True
        for generation in self.generations.values():
            kept = {number: lsn for number, lsn in generation.published.positions.items() if number not in leaving}
            generation.publish(kept, frozenset(self.held))
        self._announce()

    def _publish(self, partitions: Collection[int], loaded: bool = False) -> None:
        """Show partitions at their new positions: those that were ready, and all that have just been loaded."""
        for partition in partitions:
            self.held[partition].report()
        for generation in self.generations.values():
            positions = generation.published.positions
            reached = {
                partition: self.held[partition].tail.lsn for partition in partitions if loaded or partition in positions
            }
            generation.publish({**positions, **reached}, frozenset(self.held))
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _decode(changes: Mapping[int, Changes]) -> DecodedChanges:
    return {
        partition: {id: None if body is None else decode_body(body) for id, body in bodies.items()}
        for partition, bodies in changes.items()
    }
