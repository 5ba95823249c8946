"""The single writer: applies batches and publishes each result as one immutable State."""

import threading
from dataclasses import dataclass

import numpy as np

from services.index.core import bits, rows, segment
from services.index.core.bits import Words
from services.index.core.code import levels
from services.index.core.fields import Declared
from services.index.core.memtable import Memtable
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows
from services.index.core.segment import Part

SEAL_ROWS = 2_048
"""Rows of the memtable: few, because it is searched by brute force. A batch at least as large becomes a segment of its
own."""
SEGMENTS_MAX = 8
DEAD_SHARE_MAX = 0.2
"""A segment with a larger share of deleted rows is rewritten."""


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
    """Publishes `state`; assigning that one attribute is what makes a batch visible, all of it at once."""

    def __init__(self, hidden_dim: int, k_max: int, declared: Declared, parts: tuple[Part, ...] = ()) -> None:
        self._hidden_dim, self._k_max, self._declared = hidden_dim, k_max, declared
        self._lock = threading.Lock()
        self._memtable = self._new_memtable()
        nothing = bits.pack(np.zeros(self._memtable.capacity, np.bool_))
        self.state = self._tidy(State(parts, self._memtable.view(0), nothing))

    def apply(self, removed: Ragged, added: Rows | None = None) -> int:
        """Remove documents by id and add others in one step; return how many were removed."""
        with self._lock:
            before = self.state
            state, gone = self._without(before, removed)
            if added is None or not len(added):
                self.state = self._tidy(state)
                return gone
            if len(added) >= SEAL_ROWS:
                chunks = np.split(np.arange(len(added)), range(segment.ROWS_MAX, len(added), segment.ROWS_MAX))
                parts = (*state.parts, *(self.seal(added.take(chunk)) for chunk in chunks))
                self.state = self._tidy(State(parts, state.recent, state.recent_alive))
                return gone
            memtable, state = self._with_room(state, len(added))
            at = len(state.recent)
            memtable.write(at, added)
            alive = bits.with_rows(state.recent_alive, np.arange(at, at + len(added)))
            self.state = self._tidy(State(state.parts, memtable.view(at + len(added)), alive))
            self._memtable = memtable
            memtable.remember(at, added)
            return gone

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
        """Return the state with these ids' bits cleared, and how many there were."""
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
        recent = np.array([self._memtable.find(removed.row(i).tobytes()) for i in range(len(removed))], np.int64)
        recent_alive = bits.without(state.recent_alive, recent[recent >= 0])
        after = State(tuple(parts), state.recent, recent_alive)
        return after, state.documents - after.documents

    def _with_room(self, state: State, count: int) -> tuple[Memtable, State]:
        """Return a memtable with room for `count` rows: this one, or a new one with the old rows sealed."""
        if len(state.recent) + count <= self._memtable.capacity:
            return self._memtable, state
        memtable = self._new_memtable()
        return memtable, State(self.sealed(state), memtable.view(0), np.zeros_like(state.recent_alive))

    def _tidy(self, state: State) -> State:
        """Rewrite segments with many dead rows and merge the smallest, so that searches stay cheap."""
        parts = [part for part in state.parts if part.documents]
        parts = [
            self._merged([part]) if part.documents < (1 - DEAD_SHARE_MAX) * len(part.segment) else part
            for part in parts
        ]
        parts.sort(key=lambda part: part.documents, reverse=True)
        while len(parts) > SEGMENTS_MAX and parts[-2].documents + parts[-1].documents <= segment.ROWS_MAX:
            smallest = [parts.pop(), parts.pop()]
            parts.append(self._merged(smallest))
            parts.sort(key=lambda part: part.documents, reverse=True)
        return State(tuple(parts), state.recent, state.recent_alive)

    def _merged(self, parts: list[Part]) -> Part:
        return self.seal(
            rows.concatenate([part.segment.rows.take(bits.rows_of(part.alive, len(part.segment))) for part in parts])
        )
