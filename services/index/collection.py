"""One collection in this server: the partitions that it holds, and one engine for each live generation."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

from services.index.changes import Changes, changes_of_loads, changes_of_logs
from services.index.core.index import SparseIndex
from services.index.generation import GenerationIndex, Published
from services.index.held import HeldPartition
from services.index.partition import PartitionState
from services.index.store.catalog import CollectionRecord
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail, TailBatch

LogRead: TypeAlias = tuple[PartitionTail, TailBatch]
"""Where a read of a log began, and what it found."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a snapshot has of a collection.

    Attributes:
        engines: By generation.
        states: Partitions that are complete in all engines, as they were then.
    """

    engines: Mapping[int, SparseIndex]
    states: Mapping[int, PartitionState]


@dataclass(frozen=True, slots=True)
class Moment:
    """A collection between two changes.

    Attributes:
        published: By generation.
        states: Partitions that are ready in all generations.
    """

    record: CollectionRecord
    generations: Mapping[int, GenerationIndex]
    published: Mapping[int, Published]
    states: Mapping[int, PartitionState]


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

    @property
    def active(self) -> GenerationIndex:
        """The generation that answers searches by default."""
        return self.generations[self.record.active.generation]

    def ready(self, partition: int) -> bool:
        """Return whether searches of the active generation are answered for a partition."""
        return partition in self.active.published.positions

    async def update(self, record: CollectionRecord, partitions: frozenset[int]) -> None:
        """Follow the catalogue and placement: hold these partitions in these generations.

        Partitions that are new, and all of them when a generation is, become stale: to be loaded.
        """
        async with self._changing:
            self.record = record
            live = {generation.generation: generation for generation in record.generations}
            added = {
                number: GenerationIndex(generation, record.k_max, record.fields)
                for number, generation in live.items()
                if number not in self.generations
            }
            self.generations = {number: index for number, index in self.generations.items() if number in live} | added
            released = frozenset(self.held) - partitions
            if released:
                await self._release(released)
            for partition in sorted(partitions - self.held.keys()):
                self.held[partition] = HeldPartition(record.collection_id, partition)
            if added:
                for held in self.held.values():
                    held.stale = True

    async def restore(self, restored: Restored) -> None:
        """Take over a snapshot before anything else was loaded. Its partitions are ready once their logs were read."""
        async with self._changing:
            usable = restored.states.keys() & self.held.keys()
            others = frozenset(range(self.record.partitions)) - usable
            for number, index in self.generations.items():
                index.adopt(restored.engines[number])
            await self._change((), lambda: Changes(dropped=others) if others else None)
            for partition in usable:
                held = self.held[partition]
                held.state, held.stale = restored.states[partition], False

    async def follow(self, reads: Sequence[LogRead]) -> None:
        """Apply what was read from the logs as one change; reads that partitions have moved away from are dropped.

        Partitions that were never level with their logs are ready when this brings them there.

        Raises:
            CorruptRecord, WrongState: a body that this release cannot read; the partitions are withdrawn.
        """
        async with self._changing:
            batches = {
                start.partition: batch
                for start, batch in reads
                if start.partition in self.held and self.held[start.partition].can_follow(start)
            }
            states: dict[int, PartitionState] = {}

            def work() -> Changes:
                for partition, batch in batches.items():
                    states[partition] = self.held[partition].state.after(batch.entries, batch.tail)
                return changes_of_logs(
                    {partition: batch.entries for partition, batch in batches.items()}, self.record.fields
                )

            await self._change(batches, work)
            self._publish(
                states, {partition for partition, batch in batches.items() if batch.tail.lsn >= batch.head_lsn}
            )

    async def load(self, loads: Collection[PartitionLoad]) -> None:
        """Replace stale partitions by what was loaded; they are ready then, and their logs can be followed.

        Others have come further meanwhile, and stay as they are.

        Raises:
            CorruptRecord, WrongState: as `follow`.
        """
        async with self._changing:
            stale = {partition for partition, held in self.held.items() if held.stale}
            loads = [load for load in loads if load.tail.partition in stale]
            states = {load.tail.partition: PartitionState(load.tail, load.documents, load.digest) for load in loads}
            await self._change(states, lambda: changes_of_loads(loads, self.record.fields) if loads else None)
            for partition, state in states.items():
                held = self.held[partition]
                held.stale = False
                held.head_lsn = max(held.head_lsn, state.tail.lsn)
            self._publish(states, states.keys())

    async def withdraw(self, partitions: Iterable[int]) -> None:
        """Stop answering for partitions until they are loaded again."""
        async with self._changing:
            self._withdraw(partitions)

    async def moment(self) -> Moment:
        """Return everything as it is between two changes, for a snapshot."""
        async with self._changing:
            published = {number: index.published for number, index in self.generations.items()}
            states = {
                partition: held.state
                for partition, held in self.held.items()
                if all(partition in shown.positions for shown in published.values())
            }
            return Moment(self.record, dict(self.generations), published, states)

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
                if generation.published.state is not generation.engine.state:
                    generation.publish(generation.published.positions, generation.published.held)

    async def _release(self, partitions: frozenset[int]) -> None:
        """Forget partitions and free their documents."""
        self._withdraw(partitions)
        for partition in partitions:
            del self.held[partition]
        await self._change((), lambda: Changes(dropped=partitions))
        self._publish({}, ())

    async def _change(self, partitions: Iterable[int], change: Callable[[], Changes | None]) -> None:
        """Work out a change of partitions and bring it into the engines, off the event loop."""
        engines = list(self.generations.values())

        def work() -> None:
            changes = change()
            if changes is not None:
                for engine in engines:
                    engine.write(changes)

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

    def _publish(self, states: Mapping[int, PartitionState], ready: Collection[int]) -> None:
        """Show partitions in new states: those that were ready, and those that are from now on."""
        for partition, state in states.items():
            held = self.held[partition]
            held.state = state
            if partition in ready:
                held.settled, held.problem = True, ""
        for generation in self.generations.values():
            positions = generation.published.positions
            reached = {
                partition: state.tail.lsn
                for partition, state in states.items()
                if partition in ready or partition in positions
            }
            generation.publish({**positions, **reached}, frozenset(self.held))
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
