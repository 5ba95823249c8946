"""One comparison: every engine on the same documents and queries at one k."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.index_search import approximate, exact, oracle, ours
from benchmarks.index_search.codes import TOP_N, Cut, SearchSet
from benchmarks.index_search.engines import THREADS, Engine, NotInstalled
from benchmarks.index_search.oracle import Truth
from benchmarks.index_search.timing import Latencies, queries_per_second, take_turns, warm_up

WARM_UP_QUERIES = 200
"""Answered before anything is timed: kernels are compiled, and the planner has seen what there is."""

Build = Callable[[Cut], list[Engine]]
Say = Callable[[str], None]

ALL: Mapping[str, Build] = {
    ours.OURS: ours.build,
    exact.SCIPY: exact.scipy_product,
    exact.QDRANT: exact.qdrant_edge,
    exact.NUMPY: exact.dense_product,
    exact.FAISS_FLAT: exact.faiss_flat,
    approximate.KANNOLO: approximate.kannolo,
    approximate.SEISMIC: approximate.seismic,
    approximate.FAISS_HNSW: approximate.faiss_hnsw,
}
OVER_EMBEDDINGS = (exact.NUMPY, exact.FAISS_FLAT, approximate.FAISS_HNSW)
EXACT_CODES = {name: ALL[name] for name in (ours.OURS, exact.SCIPY, exact.QDRANT)}
EXACT = EXACT_CODES | {name: ALL[name] for name in (exact.NUMPY, exact.FAISS_FLAT)}


@dataclass(frozen=True)
class Measured:
    """One engine in one cell.

    Attributes:
        engine: Name.
        searches: "codes" or "embeddings".
        exact: Whether it is by construction.
        p50_ms: Of a single query on one thread.
        p95_ms: The same.
        mean_ms: The same; its inverse is `queries_per_second`.
        queries: Timed; slow engines answer fewer.
        queries_per_second: On one thread, one query after the other.
        batch_queries_per_second: Many queries at once on all threads.
        recall: Share of the ten best found: of the exact sparse search, or of exact dense search for embeddings.
        identical: Ours: whether every id, score and position is that of the brute force.
        build_seconds: 0 where there is nothing to build.
        build_rate: Documents a second.
        bytes_per_document: None where it cannot be told.
        settings: What was chosen for the engine.
    """

    engine: str
    searches: str
    exact: bool
    p50_ms: float
    p95_ms: float
    mean_ms: float
    queries: int
    queries_per_second: float
    batch_queries_per_second: float
    recall: float
    identical: bool | None
    build_seconds: float
    build_rate: float | None
    bytes_per_document: float | None
    settings: str


@dataclass(frozen=True)
class Cell:
    """What was measured on one set, number of documents and k.

    Attributes:
        set_name: Of the search set.
        about: What it is made of.
        documents: Searched.
        k: Latents of documents and queries.
        hidden_dim: h.
        posting_skew: Σp².
        uniform_skew: k²/h, what it would be if all latents were used alike.
        engines: Those that ran.
        missing: Engine → why it did not.
    """

    set_name: str
    about: str
    documents: int
    k: int
    hidden_dim: int
    posting_skew: float
    uniform_skew: float
    engines: list[Measured]
    missing: dict[str, str]

    def engine(self, name: str) -> Measured | None:
        """Return an engine that ran."""
        return next((found for found in self.engines if found.engine == name), None)


def compare(
    found: SearchSet, k: int, builds: Mapping[str, Build], queries: int, say: Say, count: int | None = None
) -> Cell:
    """Build, warm up, time in turns, judge.

    Args:
        found: What is searched.
        k: Of documents and queries.
        builds: Engines by name, of ALL.
        queries: Timed, behind WARM_UP_QUERIES others.
        say: Called with a line of progress.
        count: The first documents, or all.
    """
    cut = found.cut(k, count)
    skew = cut.posting_skew
    say(f"{found.name}: {len(cut):,} documents, k = {k}, Σp² = {skew:.3g}")
    with threadpool_limits(1, user_api="blas"):
        engines, missing = _build(cut, builds, say)
        measured = measure(cut, engines, queries, say)
        for engine in engines:
            engine.close()
    del engines
    gc.collect()
    return Cell(
        found.name, found.about, len(cut), k, found.hidden_dim, skew, k * k / found.hidden_dim, measured, missing
    )


def measure(cut: Cut, engines: Sequence[Engine], queries: int, say: Say) -> list[Measured]:
    """Warm up, time in turns, time batches, judge."""
    if len(cut.query_latents) < WARM_UP_QUERIES + queries:
        raise ValueError(f"{len(cut.query_latents)} queries are too few to time {queries} after {WARM_UP_QUERIES}")
    timed = list(range(WARM_UP_QUERIES, WARM_UP_QUERIES + queries))
    answer = {engine.name: engine.answer for engine in engines}
    slow = warm_up(answer, range(WARM_UP_QUERIES))
    latencies = take_turns(answer, timed, slow)
    rates = queries_per_second(
        {engine.name: engine.answer_all for engine in engines},
        {name: found.mean_seconds for name, found in latencies.items()},
        len(cut.query_latents),
        THREADS,
    )
    truth = dict(zip(timed, oracle.answers(cut, np.array(timed)), strict=True))
    measured = [_measured(cut, engine, latencies[engine.name], rates[engine.name], truth) for engine in engines]
    for line in measured:
        batch = f"{line.batch_queries_per_second:,.0f}"
        say(f"  {line.engine:28} {line.p50_ms:9.3f} ms, batch {batch:>8}/s, recall {line.recall:.4f}")
    return measured


def _build(cut: Cut, builds: Mapping[str, Build], say: Say) -> tuple[list[Engine], dict[str, str]]:
    engines: list[Engine] = []
    missing = {}
    for name, build in ALL.items():
        if name in OVER_EMBEDDINGS and cut.dense is None:
            missing[name] = "codes were drawn directly, there are no embeddings"
            continue
        if name not in builds:
            missing[name] = "does not depend on k" if name in EXACT else "left out here, because building takes long"
            continue
        try:
            engines += build(cut)
        except NotInstalled as error:
            missing[name] = str(error)
            continue
        say(f"  built {name}: {engines[-1].build_seconds:.1f} s")
    return engines, missing


def _measured(cut: Cut, engine: Engine, found: Latencies, batch_rate: float, truth: dict[int, Truth]) -> Measured:
    is_ours = engine.name.split(",")[0] == ours.OURS
    recall = _dense_recall if engine.searches == "embeddings" else _recall
    return Measured(
        engine=engine.name,
        searches=engine.searches,
        exact=engine.exact,
        p50_ms=found.milliseconds(50),
        p95_ms=found.milliseconds(95),
        mean_ms=found.mean_seconds * 1e3,
        queries=len(found.nanoseconds),
        queries_per_second=1 / found.mean_seconds,
        batch_queries_per_second=batch_rate,
        recall=recall(cut, engine, found, truth),
        identical=all(oracle.is_identical(hits, truth[query]) for query, hits in found.answers.items())
        if is_ours
        else None,
        build_seconds=engine.build_seconds,
        build_rate=len(cut) / engine.build_seconds if engine.build_seconds else None,
        bytes_per_document=None if engine.bytes is None else engine.bytes / len(cut),
        settings=engine.settings(),
    )


def _recall(cut: Cut, engine: Engine, found: Latencies, truth: dict[int, Truth]) -> float:
    answers = found.answers.items()
    return float(np.mean([oracle.recall(cut, query, engine.rows(answer), truth[query]) for query, answer in answers]))


def _dense_recall(cut: Cut, engine: Engine, found: Latencies, truth: dict[int, Truth]) -> float:
    assert cut.dense is not None
    asked = sorted(found.answers)
    least = oracle.dense_truth(cut.dense.documents, cut.dense.queries[asked])
    recalls = []
    for query, tenth in zip(asked, least, strict=True):
        rows = np.unique(np.array(engine.rows(found.answers[query]), np.int64))
        scores = cut.dense.documents[rows] @ cut.dense.queries[query]
        recalls.append(np.count_nonzero(scores >= tenth - oracle.TOLERANCE) / min(TOP_N, len(cut)))
    return float(np.mean(recalls))
