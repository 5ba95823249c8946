"""The single writer: applies batches and publishes each result as one immutable State.

Merges run on a thread that all indexes share. One builds a segment from a State without any lock; then, under the
lock, it repeats in that segment what was deleted meanwhile and publishes the exchange like a batch.
"""

import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from services.index.core import bits, merging, segment
from services.index.core.bits import Words
from services.index.core.code import levels
from services.index.core.fields import Declared
from services.index.core.memtable import Memtable
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows
from services.index.core.segment import Part

SEAL_ROWS = 4_096
"""Rows of the memtable: few, because it is searched by brute force. A batch at least as large becomes a segment of its
own."""
SEGMENTS_MAX = 4
"""Segments of up to half of segment.ROWS_MAX rows, the larger ones aside, when no merge is due."""
SEGMENTS_BOUND = 16
"""So many of them make whoever adds documents faster than they are merged wait for a merge."""

_log = logging.getLogger(__name__)
_merges = ThreadPoolExecutor(1, thread_name_prefix="merge")
"""One thread for all indexes, started by the first merge: merges must leave the processors to searches."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a search reads. Never changed: a reader that holds one goes on seeing that moment."""

    parts: tuple[Part, ...]
    recent: Rows
    """The memtable's rows."""
    recent_alive: Words

    @property
    def documents(self) -> int:
        """Number of documents that are not deleted."""
        return sum(part.documents for part in self.parts) + bits.count(self.recent_alive)


class Writer:
    """Publishes `state`; assigning that one attribute is what makes a batch visible, all of it at once.

    A merge that fails is logged and changes nothing; the next segment that is sealed makes it be tried again.
    """

    def __init__(self, hidden_dim: int, k_max: int, declared: Declared, parts: tuple[Part, ...] = ()) -> None:
        self._hidden_dim, self._k_max, self._declared = hidden_dim, k_max, declared
        self._turn = threading.Condition()
        """Held by whoever publishes; its waiters are told of every merge that ends."""
        self._merging = False
        """From the moment that a merge is handed to the thread until it has ended and none is due."""
        self._failure: Exception | None = None
        self._memtable = self._new_memtable()
        nothing = bits.pack(np.zeros(self._memtable.capacity, np.bool_))
        self.state = State(parts, self._memtable.view(0), nothing)
        with self._turn:
            self._merge_if_due()

    def apply(self, removed: Ragged, added: Rows | None = None) -> int:
        """Remove documents by id and add others in one step; return how many were removed."""
        with self._turn:
            if added is None or not len(added):
                state, gone = self._without(self.state, removed)
                self._publish(state)
                return gone
            self._turn.wait_for(lambda: not (self._merging and self._crowded()))
            state, gone = self._without(self.state, removed)
            if len(added) >= SEAL_ROWS:
                self._publish(State((*state.parts, *self._seal_all(added)), state.recent, state.recent_alive))
                return gone
            memtable, state = self._with_room(state, len(added))
            at = len(state.recent)
            memtable.write(at, added)
            alive = bits.with_rows(state.recent_alive, np.arange(at, at + len(added)))
            changed = State(state.parts, memtable.view(at + len(added)), alive)
            self._memtable = memtable
            self._publish(changed)
            return gone

    def settle(self) -> None:
        """Wait until no merge is due or running; merges that failed before are tried again.

        Raises:
            Exception: what made a merge fail.
        """
        with self._turn:
            self._failure = None
            self._merge_if_due()
            self._turn.wait_for(lambda: not self._merging)
            if self._failure is not None:
                raise self._failure

    def sealed(self, state: State) -> tuple[Part, ...]:
        """Return all documents of a state as segments, for a snapshot; nothing is published."""
        alive = bits.rows_of(state.recent_alive, len(state.recent))
        return (*state.parts, self.seal(state.recent.take(alive))) if len(alive) else state.parts

    def seal(self, documents: Rows) -> Part:
        """Return documents with distinct ids as a segment."""
        built = segment.build(documents, self._hidden_dim, levels(self._k_max))
        return Part(built, bits.pack(np.ones(len(built), np.bool_)), len(built))

    @property
    def memtable_nbytes(self) -> int:
        """Bytes of the memtable's arrays."""
        return self._memtable.nbytes

    def _new_memtable(self) -> Memtable:
        return Memtable(SEAL_ROWS, self._k_max, self._declared)

    def _without(self, state: State, removed: Ragged) -> tuple[State, int]:
        """Return the state with these ids' bits cleared, and how many there were.

        Of every segment that has one of them all bits are copied: at most 512 KiB, in about 10 microseconds.
        """
        parts = []
        for part in state.parts:
            found = part.segment.find(removed)
            found = found[found >= 0]
            found = found[bits.contains(part.alive, found)]
            if len(found):
                alive = bits.without(part.alive, found)
                parts.append(Part(part.segment, alive, part.documents - len(found)))
            else:
                parts.append(part)
        recent = self._memtable.find(removed, len(state.recent))
        recent_alive = bits.without(state.recent_alive, recent[recent >= 0])
        after = State(tuple(parts), state.recent, recent_alive)
        return after, state.documents - after.documents

    def _with_room(self, state: State, count: int) -> tuple[Memtable, State]:
        """Return a memtable with room for `count` rows: this one, or a new one with the old rows sealed."""
        if len(state.recent) + count <= self._memtable.capacity:
            return self._memtable, state
        memtable = self._new_memtable()
        return memtable, State(self.sealed(state), memtable.view(0), np.zeros_like(state.recent_alive))

    def _seal_all(self, documents: Rows) -> list[Part]:
        if len(documents) <= segment.ROWS_MAX:
            return [self.seal(documents)]
        chunks = np.split(np.arange(len(documents)), range(segment.ROWS_MAX, len(documents), segment.ROWS_MAX))
        return [self.seal(documents.take(chunk)) for chunk in chunks]

    def _publish(self, state: State) -> None:
        """Show a state, less the segments whose last document is gone."""
        if len(state.parts) > len(self.state.parts):
            self._failure = None
        parts = tuple(part for part in state.parts if part.documents)
        self.state = State(parts, state.recent, state.recent_alive)
        self._merge_if_due()

    def _crowded(self) -> bool:
        return len(merging.small(self.state.parts)) >= SEGMENTS_BOUND

    def _merge_if_due(self) -> None:
        """Hand the next merge to the thread, if one is due; called under the lock."""
        if self._merging or self._failure or not merging.due(self.state.parts, SEGMENTS_MAX):
            return
        # A queue that held the index itself, or what to merge, would keep the memory of indexes that are dropped.
        try:
            _merges.submit(_merge, weakref.ref(self))
        except RuntimeError as error:  # the program is ending, or may start no thread
            _log.info("no merge can be started: %s", error)
            self._failure = error
        else:
            self._merging = True

    def merge(self) -> None:
        """Do the merge that is due and hand over the next. Runs on the thread for merges, and nowhere else."""
        failure = None
        due = merging.due(self.state.parts, SEGMENTS_MAX)
        try:
            if due:
                built = due.build(self._hidden_dim, levels(self._k_max))
                with self._turn:
                    parts = due.swap(self.state.parts, built)
                    self.state = State(parts, self.state.recent, self.state.recent_alive)
        except Exception as error:
            _log.exception("a merge failed; its %d segments stay as they are", len(due.parts) if due else 0)
            failure = error.with_traceback(None)  # whose frames would keep half a segment in memory
        with self._turn:
            self._merging, self._failure = False, failure
            self._merge_if_due()
            self._turn.notify_all()


def _merge(reference: "weakref.ref[Writer]") -> None:
    writer = reference()
    if writer is not None:
        writer.merge()
