"""The single writer: applies batches and publishes each result as one immutable State.

Merges run on a thread that all indexes share; whoever would have to wait for one that has not begun does it instead. A
merge builds a segment from a State without any lock; then, under the lock, it repeats in that segment what was deleted
meanwhile and publishes the exchange like a batch.

A process may be forked at any moment. To the child, a write that was under way looks like one that raised: it changed
nothing. A merge that was under way is due again.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, merging, segment
from services.index.core.background import Background
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
"""So many of them make whoever adds documents faster than they are merged wait for a merge, or do it."""
ROOM_MIN = 16
"""Rows for which a memtable has room at first; it doubles up to SEAL_ROWS. A server may hold thousands of small
collections."""

_PATIENCE_SECONDS = 1.0
"""After so long a waiter looks for itself: whoever should have told it may have been interrupted."""

_log = logging.getLogger(__name__)
_merges = Background("merge")
"""One thread for all indexes: merges must leave the processors to searches."""
_writers: "weakref.WeakSet[Writer]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a search reads. Never changed: a reader that holds one goes on seeing that moment."""

    parts: tuple[Part, ...]
    memtable: Memtable
    """For the writer, which may have written more rows into it than this moment has."""
    recent: Rows
    """The memtable's rows."""
    recent_alive: Words

    @property
    def documents(self) -> int:
        """Number of documents that are not deleted."""
        return sum(part.documents for part in self.parts) + bits.count(self.recent_alive)

    @property
    def sources(self) -> list[tuple[Rows, Words]]:
        """All rows, and which of them are not deleted."""
        return [(part.segment.rows, part.alive) for part in self.parts] + [(self.recent, self.recent_alive)]


class Writer:
    """Publishes `state`; assigning that one attribute is what makes a batch visible, all of it at once.

    A merge that fails is logged and changes nothing; the next segment that is sealed makes it be tried again.
    """

    def __init__(self, hidden_dim: int, k_max: int, declared: Declared, parts: tuple[Part, ...] = ()) -> None:
        self._hidden_dim, self._k_max, self._declared = hidden_dim, k_max, declared
        self._lock = threading.RLock()
        """Held by whoever publishes. The lock itself, not the condition: only it lets no interrupt between."""
        self._turn = threading.Condition(self._lock)
        """Its waiters are told of every merge that ends."""
        self._merging: object | None = None
        """What the merge that runs, in whatever thread, is known by."""
        self._queued = False
        """While this index waits for its turn on the thread for merges."""
        self._failure: Exception | None = None
        self.state = self._with_empty_memtable(parts, ROOM_MIN)
        _writers.add(self)
        with self._lock:
            self._queue_merge()

    def apply(self, removed: Ragged, added: Rows | None = None) -> int:
        """Remove documents by id and add others in one step; return how many were removed."""
        if added is None or not len(added):
            with self._lock:
                state, gone = self._without(self.state, removed)
                self._publish(state)
                return gone
        self._merge_while(self._crowded)
        with self._lock:
            state, gone = self._without(self.state, removed)
            if len(added) >= SEAL_ROWS:
                self._publish(replace(state, parts=(*state.parts, *self._seal_all(added))))
                return gone
            state = self._with_room(state, len(added))
            at = len(state.recent)
            state.memtable.write(at, added)
            alive = bits.with_rows(state.recent_alive, np.arange(at, at + len(added)))
            self._publish(replace(state, recent=state.memtable.view(at + len(added)), recent_alive=alive))
            return gone

    def drop_partitions(self, dropped: NDArray[np.bool_]) -> int:
        """Remove all documents of the partitions chosen, [65,536], in one step; return how many were removed."""
        with self._lock:
            state = self.state
            parts = tuple(part.without(np.flatnonzero(dropped[part.segment.rows.partitions])) for part in state.parts)
            recent_alive = bits.without(state.recent_alive, np.flatnonzero(dropped[state.recent.partitions]))
            after = replace(state, parts=parts, recent_alive=recent_alive)
            self._publish(after)
            return state.documents - after.documents

    def settle(self) -> None:
        """Merge until no merge is due or running; merges that failed before are tried again.

        Raises:
            Exception: what made a merge fail.
        """
        with self._lock:
            self._failure = None
        self._merge_while(lambda: True)
        failure = self._failure
        if failure is not None:
            raise failure

    def sealed(self, state: State) -> tuple[Part, ...]:
        """Return all documents of a state as segments, for a snapshot; nothing is published."""
        alive = bits.rows_of(state.recent_alive, len(state.recent))
        return (*state.parts, self._seal(state.recent.take(alive))) if len(alive) else state.parts

    def _forget_other_threads(self) -> None:
        """Take it that no other thread writes, merges or waits: they are not there in a forked process."""
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._merging, self._queued = None, False

    def _seal(self, documents: Rows) -> Part:
        """Return documents with distinct ids as a segment."""
        return segment.whole(segment.build(documents, self._hidden_dim, levels(self._k_max)))

    def _with_empty_memtable(self, parts: tuple[Part, ...], rows: int) -> State:
        memtable = Memtable(rows, self._k_max, self._declared)
        return State(parts, memtable, memtable.view(0), bits.pack(np.zeros(rows, np.bool_)))

    def _without(self, state: State, removed: Ragged) -> tuple[State, int]:
        """Return the state with these ids' bits cleared, and how many there were."""
        found = (part.segment.find(removed) for part in state.parts)
        parts = tuple(part.without(rows[rows >= 0]) for part, rows in zip(state.parts, found, strict=True))
        recent = state.memtable.find(removed, len(state.recent))
        recent_alive = bits.without(state.recent_alive, recent[recent >= 0])
        after = replace(state, parts=parts, recent_alive=recent_alive)
        return after, state.documents - after.documents

    def _with_room(self, state: State, count: int) -> State:
        """Return the state with a memtable that has room for `count` more rows.

        It is the same one, a larger copy, or an empty one with the old rows sealed.
        """
        rows = len(state.recent)
        if rows + count > SEAL_ROWS:
            state, rows = self._with_empty_memtable(self.sealed(state), ROOM_MIN), 0
        if rows + count <= state.memtable.capacity:
            return state
        larger = self._with_empty_memtable(state.parts, max(rows + count, min(2 * state.memtable.capacity, SEAL_ROWS)))
        larger.memtable.write(0, state.recent)
        alive = np.pad(state.recent_alive, (0, len(larger.recent_alive) - len(state.recent_alive)))
        return replace(larger, recent=larger.memtable.view(rows), recent_alive=alive)

    def _seal_all(self, documents: Rows) -> list[Part]:
        if len(documents) <= segment.ROWS_MAX:
            return [self._seal(documents)]
        chunks = np.split(np.arange(len(documents)), range(segment.ROWS_MAX, len(documents), segment.ROWS_MAX))
        return [self._seal(documents.take(chunk)) for chunk in chunks]

    def _publish(self, state: State) -> None:
        """Show a state, less the segments whose last document is gone."""
        if len(state.parts) > len(self.state.parts):
            self._failure = None
        self.state = replace(state, parts=tuple(part for part in state.parts if part.documents))
        self._queue_merge()

    def _crowded(self) -> bool:
        return len(merging.small(self.state.parts)) >= SEGMENTS_BOUND

    def _queue_merge(self) -> None:
        """Let the thread do the next merge, if one is due; called under the lock."""
        if self._merging or self._queued or self._failure or not merging.due(self.state.parts, SEGMENTS_MAX):
            return
        # A queue that held the index itself, or what to merge, would keep the memory of indexes that are dropped.
        _merges.submit(partial(_merge_in_turn, weakref.ref(self)))
        self._queued = True

    def _merge_in_turn(self) -> None:
        """Do the next merge, if none runs that was begun out of turn. For the thread for merges."""

        def begins() -> bool:
            self._queued = False
            return True

        self._merge_next(begins)

    def _merge_while(self, needed: Callable[[], bool]) -> None:
        """Merge as long as that is needed and possible; a merge that runs already is waited for.

        One that is only queued is not: those of other indexes may be before it, for minutes.
        """

        def waited() -> bool:
            while not self._turn.wait_for(lambda: not (self._merging and needed()), _PATIENCE_SECONDS):
                pass
            return needed()

        while self._merge_next(waited):
            pass

    def _merge_next(self, wanted: Callable[[], bool]) -> bool:
        """Do the next merge and tell that it was done, unless one runs, none is due, or the last one failed.

        An interrupt may come at any moment: whatever it ends, the index can be written to and merged again.

        Args:
            wanted: Called under the lock, may wait on the condition.
        """
        claim, failure = object(), None
        try:
            with self._lock:
                idle = wanted() and not self._merging and not self._failure
                merge = merging.due(self.state.parts, SEGMENTS_MAX) if idle else None
                if merge is None:
                    return False
                self._merging = claim
            built = merge.build(self._hidden_dim, levels(self._k_max))
            with self._lock:
                self.state = replace(self.state, parts=merge.swap(self.state.parts, built))
        except Exception as error:
            _log.exception("a merge failed; its segments stay as they are")
            failure = error.with_traceback(None)  # whose frames would keep half a segment in memory
        finally:
            if self._merging is claim:
                self._merging = None
                with self._lock:
                    self._failure = failure
                    self._queue_merge()
                    self._turn.notify_all()
        return True


def _merge_in_turn(reference: "weakref.ref[Writer]") -> None:
    writer = reference()
    if writer is not None:
        writer._merge_in_turn()


def _after_fork() -> None:
    global _merges
    _merges = Background("merge")
    for writer in _writers:
        writer._forget_other_threads()


os.register_at_fork(after_in_child=_after_fork)
