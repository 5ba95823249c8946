"""What a comparison of engines does not show: levels of one index, searches during writes, what a row takes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.index_search import oracle, ours
from benchmarks.index_search.codes import Cut, SearchSet
from benchmarks.index_search.timing import Latencies, take_turns, warm_up
from services.index.core.index import SparseIndex

NARROW_K, WIDE_K = 8, 32
UPSERTS_PER_SECOND = 10_000
_BATCHES = (100, 1_000)
_WARM_UP_QUERIES = 200


@dataclass(frozen=True)
class Levels:
    """A level of a wider index against an index of that k, on the same queries in turns.

    Attributes:
        set_name: Of the search set.
        documents: Searched.
        level_p50_ms: At level NARROW_K of an index with k_max = WIDE_K.
        native_p50_ms: Of an index with k_max = NARROW_K.
        ratio: Level over native.
        identical: Whether both found what the brute force finds, every id and score.
    """

    set_name: str
    documents: int
    level_p50_ms: float
    native_p50_ms: float
    ratio: float
    identical: bool


@dataclass(frozen=True)
class Footprint:
    """Bytes that a document takes.

    Attributes:
        k: Of the index.
        hidden_dim: h.
        documents: In the index.
        codes: Everything but the ids, memtable included.
        ids: Offsets and hash table; without the text.
        id_text: The bytes of the ids themselves.
    """

    k: int
    hidden_dim: int
    documents: int
    codes: float
    ids: float
    id_text: float


@dataclass(frozen=True)
class Writing:
    """Latencies of single queries, alone and while another thread writes.

    Attributes:
        set_name: Of the search set.
        documents: Before the writes.
        k: Of the index.
        quiet_p50_ms: Nobody writes.
        quiet_p99_ms: The same.
        busy_p50_ms: During the writes.
        busy_p99_ms: The same.
        quiet_queries: Timed.
        busy_queries: Timed.
        upserts_per_second: Achieved, half of them new documents.
        wanted_upserts_per_second: Aimed at.
        merges: Times that a segment was replaced.
        segments: Most at a time.
    """

    set_name: str
    documents: int
    k: int
    quiet_p50_ms: float
    quiet_p99_ms: float
    busy_p50_ms: float
    busy_p99_ms: float
    quiet_queries: int
    busy_queries: int
    upserts_per_second: float
    wanted_upserts_per_second: float
    merges: int
    segments: int


def levels(found: SearchSet, queries: int, count: int | None = None) -> Levels:
    """Search at level 8 of a wide index, and in a narrow one."""
    wide, narrow = found.cut(WIDE_K, count), found.cut(NARROW_K, count)
    engines = {
        "level": ours.engine("level", ours.filled(wide)[0], wide, 0.0, None, k=NARROW_K),
        "native": ours.engine("native", ours.filled(narrow)[0], narrow, 0.0, None),
    }
    answer = {name: engine.answer for name, engine in engines.items()}
    timed = list(range(_WARM_UP_QUERIES, _WARM_UP_QUERIES + queries))
    warm_up(answer, range(_WARM_UP_QUERIES))
    latencies = take_turns(answer, timed)
    truths = {
        "level": oracle.answers(wide, np.array(timed), NARROW_K),
        "native": oracle.answers(narrow, np.array(timed)),
    }
    p50 = {name: latencies[name].milliseconds(50) for name in engines}
    identical = all(
        oracle.is_identical(latencies[name].answers[query], truth)
        for name in engines
        for query, truth in zip(timed, truths[name], strict=True)
    )
    return Levels(found.name, len(wide), p50["level"], p50["native"], p50["level"] / p50["native"], identical)


def footprint(cut: Cut) -> Footprint:
    """Fill an index and count its arrays."""
    index, _ = ours.filled(cut)
    count, text = len(cut), len(ours.names(1)[0])
    ids = ours.id_bytes(index)
    codes = index.statistics().bytes - ids
    return Footprint(cut.k, cut.hidden_dim, count, codes / count, ids / count - text, text)


def writing(found: SearchSet, k: int, seconds: float, count: int | None = None) -> Writing:
    """Ask one query after the other, first alone, then beside a thread that upserts 10,000 documents a second."""
    cut = found.cut(k, count)
    index, _ = ours.filled(cut)
    search = ours.engine(ours.OURS, index, cut, 0.0, None).answer
    warm_up({ours.OURS: search}, range(len(cut.query_latents)))
    batches = _Batches(cut, seconds)
    batches.upsert(index, 3)  # the memtable's and the merges' code is compiled before anything is timed
    index.settle()
    quiet, _, _ = _ask(index, search, len(cut.query_latents), _until(time.perf_counter() + seconds))
    writer = threading.Thread(target=batches.write, args=(index,))
    writer.start()
    busy, merges, segments = _ask(index, search, len(cut.query_latents), writer.is_alive)
    writer.join()
    return Writing(
        set_name=found.name,
        documents=len(cut),
        k=k,
        quiet_p50_ms=quiet.milliseconds(50),
        quiet_p99_ms=quiet.milliseconds(99),
        busy_p50_ms=busy.milliseconds(50),
        busy_p99_ms=busy.milliseconds(99),
        quiet_queries=len(quiet.nanoseconds),
        busy_queries=len(busy.nanoseconds),
        upserts_per_second=batches.rate,
        wanted_upserts_per_second=UPSERTS_PER_SECOND,
        merges=merges,
        segments=segments,
    )


class _Batches:
    """Batches of 100 to 1,000 documents with codes of the set, half of them under new ids, made before the clock runs.

    Args:
        cut: Where codes come from.
        seconds: How long writing takes at the rate that is aimed at.
    """

    def __init__(self, cut: Cut, seconds: float) -> None:
        self._cut, self._seconds = cut, seconds
        random = np.random.default_rng(0)
        new = len(cut)
        self._batches: list[tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]] = []
        for _ in range(3 + int(seconds * UPSERTS_PER_SECOND / np.mean(_BATCHES))):
            size = int(random.integers(_BATCHES[0], _BATCHES[1] + 1))
            old = random.choice(len(cut), size // 2, replace=False).tolist()
            added = range(new, new + size - len(old))
            new = added.stop
            self._batches.append(([f"{row:08d}" for row in (*old, *added)], random.integers(len(cut), size=size)))
        self.rate = 0.0

    def upsert(self, index: SparseIndex, count: int) -> int:
        """Write the next `count` batches and return their documents."""
        batches, self._batches = self._batches[:count], self._batches[count:]
        for ids, rows in batches:
            index.upsert(ids, self._cut.latents[rows], self._cut.weights[rows])
        return sum(len(ids) for ids, _ in batches)

    def write(self, index: SparseIndex) -> None:
        """Write all batches, never faster than 10,000 documents a second, and remember how fast."""
        started, written = time.perf_counter(), 0
        while self._batches:
            written += self.upsert(index, 1)
            time.sleep(max(0.0, started + written / UPSERTS_PER_SECOND - time.perf_counter()))
        self.rate = written / (time.perf_counter() - started)


def _until(end: float) -> Callable[[], bool]:
    return lambda: time.perf_counter() < end


def _ask(
    index: SparseIndex, search: Callable[[int], object], queries: int, going_on: Callable[[], bool]
) -> tuple[Latencies, int, int]:
    """Time single queries while `going_on`; return also how often a segment was replaced, and the most segments."""
    found, merges, most = Latencies(), 0, 0
    before = {id(part.segment): part.segment for part in index.state.parts}
    query = 0
    while going_on():
        started = time.perf_counter_ns()
        search(query % queries)
        found.nanoseconds.append(time.perf_counter_ns() - started)
        query += 1
        after = {id(part.segment): part.segment for part in index.state.parts}
        merges += bool(before.keys() - after.keys())
        most = max(most, len(after))
        before = after
    return found, merges, most
