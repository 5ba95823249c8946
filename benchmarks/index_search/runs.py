"""Which comparisons a run consists of."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.index_search import cells, special
from benchmarks.index_search.approximate import KANNOLO
from benchmarks.index_search.cells import WARM_UP_QUERIES, Say
from benchmarks.index_search.codes import Floats, Latents, SearchSet, prefix_of
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.real import SOURCES, load_real
from benchmarks.index_search.synthetic import HIDDEN_DIM, Clustered, Maker, Unclustered, code_blocks, made
from benchmarks.index_search.ten_million import QUERIES, K, TenMillion, ten_million

MAKERS: dict[str, Callable[[], Maker]] = {"clustered": Clustered, "unclustered": Unclustered}
SETS = (*SOURCES, *MAKERS)
KS = (8, 32, 128)
MAIN_K = 32


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        documents: Of the sets that are made up.
        growth: Fewer of them, at k = 32.
        queries: Timed in each cell.
        writing_seconds: Of searches without and with writes, each.
        graphs: Whether engines that take minutes to build run on sets that are made up.
        large: Documents of the index with a process of its own; 0 for none.
    """

    documents: int = 1_000_000
    growth: tuple[int, ...] = (100_000, 300_000)
    queries: int = 400
    writing_seconds: float = 30.0
    graphs: bool = True
    large: int = 0


QUICK = Plan(100_000, (25_000,), 100, 5.0, graphs=False)
LARGE = 10_000_000


def run(sets: Sequence[str], plan: Plan, command: str, say: Say) -> Outcome:
    """Run everything on each set in turn; one set is in memory at a time."""
    outcome = Outcome(command)
    for name in sets:
        if name in SOURCES:
            _real(load_real(name, say), plan, outcome, say)
        else:
            _made(name, plan, outcome, say)
        gc.collect()
    if plan.large:
        say(f"clustered: {plan.large:,} documents, k = {K}, in a process of its own")
        outcome.ten_million = _large(plan.large, say)
    return outcome


def _real(found: SearchSet, plan: Plan, outcome: Outcome, say: Say) -> None:
    for k in KS:
        outcome.cells.append(cells.compare(found, k, cells.ALL, plan.queries, say))
    _levels(found, plan, outcome, say)


def _made(name: str, plan: Plan, outcome: Outcome, say: Say) -> None:
    say(f"making {plan.documents:,} documents of {name}")
    found = made(MAKERS[name](), plan.documents, WARM_UP_QUERIES + plan.queries)
    every = _affordable(name) if plan.graphs else cells.EXACT
    for count in plan.growth:
        builds = every if count == min(plan.growth) else cells.EXACT_CODES
        outcome.cells.append(cells.compare(found, MAIN_K, builds, plan.queries, say, count))
    for k in KS:
        builds = every if k == MAIN_K else cells.EXACT_CODES
        outcome.cells.append(cells.compare(found, k, builds, plan.queries, say))
    _levels(found, plan, outcome, say)
    if name == Clustered.name:
        outcome.footprint = special.footprint(found.cut(MAIN_K))
        say(f"{name}: searching while {special.UPSERTS_PER_SECOND:,} documents a second are written")
        outcome.writing = special.writing(found, MAIN_K, plan.writing_seconds)


def _affordable(name: str) -> Mapping[str, cells.Build]:
    """Return every engine, but no graph of codes without clusters: a million rows of them would take hours to link."""
    return {engine: build for engine, build in cells.ALL.items() if (name, engine) != (Unclustered.name, KANNOLO)}


def _levels(found: SearchSet, plan: Plan, outcome: Outcome, say: Say) -> None:
    outcome.levels.append(special.levels(found, plan.queries))
    say(f"{found.name}: level 8 of k_max 32 takes {outcome.levels[-1].ratio:.2f} × as long as k_max 8")


def _large(documents: int, say: Say) -> TenMillion:
    maker = Clustered()
    asked = made(maker, 1, QUERIES).queries

    def blocks() -> Iterator[tuple[Latents, Floats]]:
        for codes in code_blocks(maker, documents):
            yield prefix_of(*codes, K)

    return ten_million(blocks(), *prefix_of(*asked, K), HIDDEN_DIM, say)
