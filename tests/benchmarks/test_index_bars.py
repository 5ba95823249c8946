"""The goals of the comparison of index engines: what is called reached."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.index_search import bars
from benchmarks.index_search.cells import Cell, Measured
from benchmarks.index_search.exact import NUMPY, QDRANT, SCIPY
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.special import UPSERTS_PER_SECOND, Footprint, Levels, Writing
from benchmarks.index_search.ten_million import TenMillion


def line_of(engine: str, p50: float, **known: object) -> Measured:
    """Return what was measured, made up."""
    usual: dict[str, Any] = {
        **{"searches": "codes", "exact": True, "p95_ms": p50, "mean_ms": p50, "queries": 200, "recall": 1.0},
        **{"queries_per_second": 1e3 / p50, "batch_queries_per_second": 2e3 / p50, "build_seconds": 1.0},
        **{"identical": True if engine.startswith("ours") else None, "build_rate": 6e5, "bytes_per_document": 256.0},
    }
    return Measured(engine=engine, p50_ms=p50, settings="", **(usual | known))


def cell_of(set_name: str, k: int, p50: dict[str, float], documents: int = 1_000_000) -> Cell:
    """Return a cell with these latencies."""
    return Cell(set_name, "", documents, k, 4_096, 0.76, 0.25, [line_of(name, ms) for name, ms in p50.items()], {})


def test_bars_are_ratios_the_right_way_round() -> None:
    """A ratio upside down, or of the wrong cell, would report a slower index as faster."""
    latencies = {
        **{"ours": 0.3, "ours, accumulate only": 0.6, "ours, block-max only": 0.25, SCIPY: 12.0, QDRANT: 3.0},
        **{NUMPY: 240.0, "faiss flat, dense": 150.0},
    }
    small = cell_of("clustered", 32, {"ours": 1.0, SCIPY: 1.0}, documents=1_000)
    unclustered = {"ours": 0.5, "ours, accumulate only": 0.4, SCIPY: 8.0}
    outcome = Outcome(
        "", cells=[small, cell_of("clustered", 32, latencies), cell_of("unclustered", 8, unclustered, documents=9)]
    )
    found = {bar.name: bar for bar in bars.bars(outcome)}

    def bar(*words: str) -> bars.Bar:
        (name,) = [name for name in found if all(word in name for word in words)]
        return found[name]

    assert bar("clustered 1,000,000", SCIPY).measured == pytest.approx(40)
    assert bar("clustered 1,000,000", SCIPY).reached
    assert bar("clustered 1,000,000", QDRANT).measured == pytest.approx(10)
    assert bar("clustered 1,000,000", QDRANT).reached is False
    assert bar("clustered 1,000,000", "exact dense").measured == pytest.approx(500)
    assert bar("clustered 1,000,000", "next exact engine").measured == pytest.approx(10)
    assert bar("clustered 1,000,000", "one after the other").measured == pytest.approx(2)
    assert bar("unclustered 9 k = 8", "planner over accumulate").measured == pytest.approx(1.25)
    assert bar("unclustered 9 k = 8", "planner over accumulate").reached is False
    assert bar("unclustered 9 k = 8", "accumulate alone against").measured == pytest.approx(20)
    assert bar("worst of 3 cells").measured == pytest.approx(1.25)
    assert bar("debian k = 32", SCIPY).reached is None
    assert bar("10M", "steady").reached is None


def special_outcome(share: float) -> Outcome:
    """Return a run whose figures beside the comparison are as they must be at 1, too good below, too bad above."""
    mine = line_of("ours", 1.0, build_rate=500_000 / share, batch_queries_per_second=1_000 / share)
    cell = replace(cell_of("clustered", 32, {}), engines=[mine])
    gigabytes = int(share * 10**9)
    large = TenMillion(9, 32, 4_096, 8, 1, 5 * gigabytes, 7 * gigabytes, 1, 1.0, 1.0, 1.0, True)
    return Outcome(
        "",
        cells=[cell],
        levels=[Levels("clustered", 9, 3.0 * share, 2.0, 1.5 * share, True)],
        footprint=Footprint(32, 4_096, 9, 320 * share, 48 * share, 8.0),
        writing=Writing(
            *("clustered", 9, 32, 1.0, 2.0, 1.0, 8.0 * share, 9, 9),
            *(0.95 * UPSERTS_PER_SECOND / share, UPSERTS_PER_SECOND, 1, 1),
        ),
        ten_million=large,
    )


def test_every_other_bar_points_the_right_way() -> None:
    """Twice the memory, or half the writes, would pass for an index that is better than required."""
    at, better, worse = ({bar.name: bar for bar in bars.bars(special_outcome(share))} for share in (1.0, 0.9, 1.1))
    judged = {
        "clustered 1,000,000 k = 32: queries/s in a batch on all threads over one after the other": 1,
        "build, k = 32": 500_000,
        "memory at k = 32, h = 4096, ids aside": 320,
        "memory of ids, their text aside": 48,
        "clustered 9: p50 at level 8 of an index with k_max = 32 over an index with k_max = 8": 1.5,
        "p99 during upserts over quiet p99": 4,
        "upserts meanwhile, 95 % of their pace of 10,000/s": 9_500,
        "10M, k = 32: resident, steady": 5,
        "10M, k = 32: resident, most while filling and merging": 7,
    }
    for name, required in judged.items():
        assert at[name].required == at[name].measured == pytest.approx(required)
        assert better[name].reached is True
        assert worse[name].reached is False
