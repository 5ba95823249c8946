"""What a run found as a page of tables and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.index_search.bars import GB, Bar, bars, planner_overhead
from benchmarks.index_search.cells import Cell, Measured
from benchmarks.index_search.ours import OURS
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.timing import SLOW_SECONDS, SLOW_TURNS, TURN, UNTIMED

INTRODUCTION = f"""\
# Index

Made by `python -m benchmarks.index`. Ten hits a query. Trust ratios within a run more than times.

- Engines take turns of {TURN} queries, the same for all, in random order; a turn begins with {UNTIMED} others that are
  not timed. Engines slower than {1_000 * SLOW_SECONDS:.0f} ms answer one query in {TURN * SLOW_TURNS} only.
- **p50, p95, queries/s**: one query after the other on one thread. **Batch**: many at once on all threads.
- **Recall**: share of the ten best documents that are found, by brute force in integers over the stored codes; for
  engines over embeddings, by exact dense search. Ours must have every id, score and place of the brute force.
- Ours gets arrays and checks and rounds them within its time; the others get queries in their own form, made before.
- **Built/s**: documents, from codes or embeddings in arrays to an index that answers; other packages on all threads.
  Bytes are those of all arrays, ids included, or as the package tells, or of its file.
- Σp² is the number of postings that a query touches per document; k²/h if all latents were used alike.
"""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return every number."""
    goals = [{**asdict(bar), "reached": bar.reached} for bar in bars(outcome)]
    return {**asdict(outcome), "bars": goals}


def markdown(outcome: Outcome, pictures: Sequence[Path]) -> str:
    """Return the page."""
    parts = [
        INTRODUCTION,
        "".join(f"{name}: {value}. " for name, value in outcome.machine.items()).strip() + "\n",
        f"## Bars\n\n{bar_table(bars(outcome))}",
        *(f"![{path.stem}]({path.name})\n" for path in pictures),
        *(_section(name, outcome) for name in dict.fromkeys(cell.set_name for cell in outcome.cells)),
        *_growth(outcome),
        *_special(outcome),
    ]
    return "\n".join(parts)


def bar_table(goals: Iterable[Bar]) -> str:
    """Return the bars as a table."""
    return table(["", "required", "measured", ""], [_bar(bar) for bar in goals])


def _bar(bar: Bar) -> list[str]:
    sign = "≥" if bar.at_least else "≤"
    verdict = {None: "not in this run", True: "reached", False: "**not reached**"}[bar.reached]
    return [bar.name, f"{sign} {bar.required:,g}{bar.unit}", f"{short(bar.measured)}{bar.unit}", verdict]


def _section(name: str, outcome: Outcome) -> str:
    cells = [cell for cell in outcome.cells if cell.set_name == name]
    first = cells[0]
    return f"## {name}\n\n{first.about[:1].upper()}{first.about[1:]}. h = {first.hidden_dim:,}.\n\n" + "\n".join(
        _cell(cell) for cell in cells
    )


def _cell(cell: Cell) -> str:
    header = ["", "p50, ms", "p95, ms", "× ours", "queries/s", "batch/s", "recall", "built/s", "B/document", ""]
    mine = cell.engine(OURS)
    rows = [_line(line, mine) for line in cell.engines]
    rows += [[name, *["–"] * (len(header) - 2), why] for name, why in cell.missing.items()]
    overhead = planner_overhead(cell)
    note = "" if overhead is None else f" Planner over the fastest single kernel, in total: {overhead:.2f}×."
    return (
        f"### {cell.documents:,} documents, k = {cell.k}\n\n"
        f"Σp² = {cell.posting_skew:.3g}, k²/h = {cell.uniform_skew:.3g}.{note}\n\n{table(header, rows)}"
    )


def _line(line: Measured, mine: Measured | None) -> list[str]:
    recall = f"{line.recall:.4f}" + ("" if line.identical is None or line.identical else " (**not identical**)")
    return [
        f"**{line.engine}**" if line.engine == OURS else line.engine,
        short(line.p50_ms),
        short(line.p95_ms),
        "–" if mine is None else short(line.p50_ms / mine.p50_ms),
        f"{line.queries_per_second:,.0f}",
        f"{line.batch_queries_per_second:,.0f}",
        recall,
        "–" if line.build_rate is None else f"{line.build_rate:,.0f}",
        "–" if line.bytes_per_document is None else f"{line.bytes_per_document:,.0f}",
        f"{line.settings}; {line.queries} queries" if line.settings else f"{line.queries} queries",
    ]


def _growth(outcome: Outcome) -> list[str]:
    """Return p50 by number of documents at each k, for sets with more than one size."""
    found = []
    for name in dict.fromkeys(cell.set_name for cell in outcome.cells):
        cells = [cell for cell in outcome.cells if cell.set_name == name]
        cells.sort(key=lambda cell: (cell.k, cell.documents))
        engines = dict.fromkeys(line.engine for cell in cells for line in cell.engines)
        rows = [[engine, *(_p50(cell.engine(engine)) for cell in cells)] for engine in engines]
        header = ["p50, ms", *(f"{cell.documents:,}, k = {cell.k}" for cell in cells)]
        found.append(f"## Growth: {name}\n\n{table(header, rows)}")
    return found


def _special(outcome: Outcome) -> list[str]:
    parts = []
    if outcome.levels:
        header = ["p50, ms", "documents", "level 8 of k_max = 32", "k_max = 8", "ratio", "exact"]
        rows = [
            [
                found.set_name,
                f"{found.documents:,}",
                short(found.level_p50_ms),
                short(found.native_p50_ms),
                f"{found.ratio:.2f}",
                "yes" if found.identical else "**no**",
            ]
            for found in outcome.levels
        ]
        parts.append(f"## A level of a wider index\n\n{table(header, rows)}")
    if (held := outcome.footprint) is not None:
        parts.append(
            f"## Memory\n\nk = {held.k}, h = {held.hidden_dim:,}, {held.documents:,} documents, bytes a document: "
            f"{held.codes:.0f}; ids {held.ids:.0f} and their text {held.id_text:.0f}.\n"
        )
    if (found := outcome.writing) is not None:
        parts.append(
            f"## Searches during writes\n\n{found.set_name}, {found.documents:,} documents, k = {found.k}; one thread "
            f"asks, another upserts batches of 100 to 1,000, half of them new documents: "
            f"{found.upserts_per_second:,.0f} of {found.wanted_upserts_per_second:,.0f} a second were reached. "
            f"Segments were replaced {found.merges} times; there were {found.segments} at most.\n\n"
            + table(
                ["ms", "p50", "p99", "queries"],
                [
                    ["quiet", short(found.quiet_p50_ms), short(found.quiet_p99_ms), f"{found.quiet_queries:,}"],
                    ["during writes", short(found.busy_p50_ms), short(found.busy_p99_ms), f"{found.busy_queries:,}"],
                ],
            )
        )
    if (large := outcome.ten_million) is not None:
        parts.append(
            f"## {large.documents:,} documents\n\nk = {large.k}, h = {large.hidden_dim:,}, in a process of its own, "
            f"which holds {large.start_bytes / GB:.2f} GB before the first document. Resident "
            f"{large.steady_bytes / GB:.2f} GB in the end, {large.merge_bytes / GB:.2f} GB at most while filling and "
            f"merging; the arrays of the index take {large.index_bytes / GB:.2f} GB in {large.segments} segments. "
            f"{large.build_rate:,.0f} documents/s, merges included. p50 {large.p50_ms:.2f} ms, p95 "
            f"{large.p95_ms:.2f} ms, {'identical to' if large.identical else '**not identical to**'} brute force.\n"
        )
    return parts


def _p50(line: Measured | None) -> str:
    return "–" if line is None else short(line.p50_ms)


def short(value: float | None) -> str:
    """Return three digits of a number, or all of them before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
