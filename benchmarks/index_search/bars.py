"""What ours must reach, each as a ratio of two figures of the same run."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.index_search.cells import Cell, Measured
from benchmarks.index_search.exact import FAISS_FLAT, NUMPY, QDRANT, SCIPY
from benchmarks.index_search.ours import OURS, kernel_name
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.special import UPSERTS_PER_SECOND
from services.index.core.planner import KERNELS

GB = 10**9
_ACCUMULATE = kernel_name("accumulate")


@dataclass(frozen=True)
class Bar:
    """One goal.

    Attributes:
        name: What must be so, of which cell.
        required: The bound.
        at_least: Whether `measured` must not be below it; else not above.
        measured: None where this run has no such figure.
        unit: Behind both numbers: "×", "documents/s" …
    """

    name: str
    required: float
    at_least: bool
    measured: float | None
    unit: str = "×"

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met, or None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.required if self.at_least else self.measured <= self.required


def bars(outcome: Outcome) -> list[Bar]:
    """Return every bar, in the order of the report."""
    return [
        _exactness(outcome),
        *_clustered(outcome),
        *_real(outcome, "debian", 4.5, 25),
        *_real(outcome, "fashion", 8, 50),
        *_unclustered(outcome),
        _planner(outcome),
        *_build_and_memory(outcome),
        *_levels(outcome),
        *_writing(outcome),
        *_ten_million(outcome),
    ]


def faster(cell: Cell | None, other: str, ours: str = OURS) -> float | None:
    """Return how many times the p50 of `other` is that of ours."""
    mine, theirs = (None, None) if cell is None else (cell.engine(ours), cell.engine(other))
    return None if mine is None or theirs is None else theirs.p50_ms / mine.p50_ms


def over_dense(cell: Cell | None) -> float | None:
    """Return how many times the p50 of ours the faster of the exact dense searches needs."""
    return _least(faster(cell, name) for name in (NUMPY, FAISS_FLAT))


def planner_overhead(cell: Cell | None) -> float | None:
    """Return the planner's total time over that of the single kernel that was fastest in total."""
    mine = None if cell is None else cell.engine(OURS)
    if cell is None or mine is None:
        return None
    best = _least(found.mean_ms for found in (cell.engine(kernel_name(kernel)) for kernel in KERNELS) if found)
    return None if best is None else mine.mean_ms / best


def batch_lead(cell: Cell | None) -> float | None:
    """Return our queries a second on all threads over those of the next exact engine."""
    mine = None if cell is None else cell.engine(OURS)
    if cell is None or mine is None:
        return None
    others = [found for found in cell.engines if found.exact and not is_ours(found)]
    rates = [found.batch_queries_per_second for found in others]
    return mine.batch_queries_per_second / max(rates) if rates else None


def batch_gain(cell: Cell | None) -> float | None:
    """Return our queries a second in a batch on all threads over those of one query after the other."""
    mine = None if cell is None else cell.engine(OURS)
    return None if mine is None else mine.batch_queries_per_second / mine.queries_per_second


def is_ours(found: Measured) -> bool:
    """Whether an engine is this project's, planner or single kernel."""
    return found.identical is not None


def _exactness(outcome: Outcome) -> Bar:
    cells = [found for cell in outcome.cells for found in cell.engines if is_ours(found)]
    same = [found.identical for found in outcome.levels]
    if outcome.ten_million is not None:
        same.append(outcome.ten_million.identical)
    recalls = [found.recall if found.identical else min(found.recall, 0.9999) for found in cells] + [
        1.0 if identical else 0.0 for identical in same
    ]
    name = f"exact: recall, ids, scores and order of brute force, worst of {len(recalls)} measurements of ours"
    return Bar(name, 1.0, True, _least(recalls), "")


def _clustered(outcome: Outcome) -> list[Bar]:
    cell = outcome.largest("clustered", 32)
    where = f"clustered {_size(cell)}k = 32:"
    return [
        Bar(f"{where} p50 against {SCIPY}", 30, True, faster(cell, SCIPY)),
        Bar(f"{where} p50 against {QDRANT}", 15, True, faster(cell, QDRANT)),
        Bar(f"{where} p50 against exact dense, d = 768", 400, True, over_dense(cell)),
        Bar(f"{where} batch on all threads against the next exact engine", 5, True, batch_lead(cell)),
        Bar(f"{where} queries/s in a batch on all threads over one after the other", 1, True, batch_gain(cell)),
    ]


def _real(outcome: Outcome, name: str, over_scipy: float, than_dense: float) -> list[Bar]:
    cell = outcome.largest(name, 32)
    return [
        Bar(f"{name} k = 32: p50 against {SCIPY}", over_scipy, True, faster(cell, SCIPY)),
        Bar(f"{name} k = 32: p50 against exact dense of the same documents", than_dense, True, over_dense(cell)),
        Bar(f"{name} k = 32: total time with the planner over the better kernel", 1.15, False, planner_overhead(cell)),
    ]


def _unclustered(outcome: Outcome) -> list[Bar]:
    found = []
    for k in sorted({cell.k for cell in outcome.cells if cell.set_name == "unclustered"}) or [32]:
        cell = outcome.largest("unclustered", k)
        where = f"unclustered {_size(cell)}k = {k}:"
        ratio = faster(cell, _ACCUMULATE)
        overhead = None if ratio is None else 1 / ratio
        lead = faster(cell, SCIPY, _ACCUMULATE)
        found.append(Bar(f"{where} p50 of the planner over accumulate alone", 1.15, False, overhead))
        found.append(Bar(f"{where} p50 of accumulate alone against {SCIPY}", 10, True, lead))
    return found


def _planner(outcome: Outcome) -> Bar:
    overheads = [planner_overhead(cell) for cell in outcome.cells]
    name = f"total time with the planner over the fastest single kernel, worst of {len(overheads)} cells"
    return Bar(name, 1.15, False, max((value for value in overheads if value is not None), default=None))


def _build_and_memory(outcome: Outcome) -> list[Bar]:
    cell, held = outcome.largest("clustered", 32), outcome.footprint
    mine = None if cell is None else cell.engine(OURS)
    return [
        Bar("build, k = 32", 500_000, True, None if mine is None else mine.build_rate, " documents/s"),
        Bar("memory at k = 32, h = 4096, ids aside", 320, False, None if held is None else held.codes, " B/document"),
        Bar("memory of ids, their text aside", 48, False, None if held is None else held.ids, " B/document"),
    ]


def _levels(outcome: Outcome) -> list[Bar]:
    name = "p50 at level 8 of an index with k_max = 32 over an index with k_max = 8"
    return [
        Bar(f"{found.set_name} {found.documents:,}: {name}", 1.5, False, found.ratio) for found in outcome.levels
    ] or [Bar(name, 1.5, False, None)]


def _writing(outcome: Outcome) -> list[Bar]:
    found, pace = outcome.writing, UPSERTS_PER_SECOND
    slowed, rate = (None, None) if found is None else (found.busy_p99_ms / found.quiet_p99_ms, found.upserts_per_second)
    return [
        Bar("p99 during upserts over quiet p99", 4, False, slowed),
        Bar(f"upserts meanwhile, 95 % of their pace of {pace:,}/s", 0.95 * pace, True, rate, "/s"),
    ]


def _ten_million(outcome: Outcome) -> list[Bar]:
    found = outcome.ten_million
    steady, most = (None, None) if found is None else (found.steady_bytes / GB, found.merge_bytes / GB)
    return [
        Bar("10M, k = 32: resident, steady", 5, False, steady, " GB"),
        Bar("10M, k = 32: resident, most while filling and merging", 7, False, most, " GB"),
    ]


def _size(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.documents:,} "


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
