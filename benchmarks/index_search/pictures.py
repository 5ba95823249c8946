"""Latency of every engine on every set, and how it grows with the number of documents."""

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.index_search.cells import Cell, Measured
from benchmarks.index_search.ours import OURS
from benchmarks.index_search.outcome import Outcome

LATENCY = "index-latency.png"
GROWTH = "index-growth.png"
_K = 32
_OURS, _EXACT, _APPROXIMATE, _DENSE = "#1f5fa8", "#c0652a", "#2f8f5b", "#999999"
_MARKERS = "os^Dvp*"


def draw(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the pictures for which there is something to draw, and return their paths."""
    paths = []
    for name, picture in ((LATENCY, _latency(outcome)), (GROWTH, _growth(outcome))):
        if picture is not None:
            paths.append(folder / name)
            picture.savefig(paths[-1], dpi=144)
    return paths


def _latency(outcome: Outcome) -> Figure | None:
    sets = list(dict.fromkeys(cell.set_name for cell in outcome.cells))
    cells = [found for name in sets if (found := outcome.largest(name, _K)) is not None]
    names = list(dict.fromkeys(line.engine for cell in cells for line in cell.engines))
    if not names:
        return None
    figure = Figure(figsize=(8.5, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for cell, marker in zip(cells, _MARKERS, strict=False):
        points = [(line.p50_ms, names.index(line.engine), _colour(line)) for line in cell.engines]
        x, y, colours = zip(*points, strict=True)
        axes.scatter(x, y, c=colours, marker=marker, s=36, alpha=0.85, linewidths=0)
        axes.scatter([], [], c="#555555", marker=marker, s=36, label=f"{cell.set_name}, {cell.documents:,}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _style(axes, f"ms a query, median, one thread, k = {_K}, 10 hits", "x")
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize="small")
    axes.set_title("blue ours, orange exact, green approximate, grey over embeddings", loc="left", fontsize="small")
    return figure


def _growth(outcome: Outcome) -> Figure | None:
    sets = list(dict.fromkeys(cell.set_name for cell in outcome.cells))
    grown = {name: cells for name in sets if len(cells := _cells_by_size(outcome, name)) > 1}
    if not grown:
        return None
    names = list(dict.fromkeys(line.engine for cells in grown.values() for cell in cells for line in cell.engines))
    figure = Figure(figsize=(4.2 * len(grown) + 2.2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(grown), squeeze=False, sharey=True)[0]
    for axes, (name, cells) in zip(panels, grown.items(), strict=True):
        for number, engine in enumerate(names):
            points = [(cell.documents, line.p50_ms) for cell in cells if (line := cell.engine(engine)) is not None]
            x, y = zip(*points, strict=True) if points else ((), ())
            style = {"color": f"C{number % 10}", "linewidth": 2.5 if engine == OURS else 1, "markersize": 4}
            axes.plot(x, y, "o-" if number < 10 else "s--", label=engine, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([cell.documents for cell in cells], [f"{cell.documents:,}" for cell in cells])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(name, loc="left")
        _style(axes, "documents", "both")
    panels[0].set_ylabel(f"ms a query, median, one thread, k = {_K}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return figure


def _cells_by_size(outcome: Outcome, name: str) -> list[Cell]:
    cells = [cell for cell in outcome.cells if cell.set_name == name and cell.k == _K]
    return sorted(cells, key=lambda cell: cell.documents)


def _colour(line: Measured) -> str:
    if line.identical is not None:
        return _OURS
    if line.searches == "embeddings":
        return _DENSE
    return _EXACT if line.exact else _APPROXIMATE


def _style(axes: Axes, label: str, grid: Literal["x", "both"]) -> None:
    axes.set_xlabel(label)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
