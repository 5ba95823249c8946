"""Latency of every engine on every set, and how it grows with the number of documents."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    axes.set_title("blue ours, orange exact, green approximate, grey over embeddings", loc="left", fontsize="small")
    return figure


def _growth(outcome: Outcome) -> Figure | None:
    sets = list(dict.fromkeys(cell.set_name for cell in outcome.cells))
    grown = {name: _cells_by_size(outcome, name) for name in sets}
    grown = {name: cells for name, cells in grown.items() if len(cells) > 1}
    if not grown:
        return None
    figure = Figure(figsize=(4.6 * len(grown) + 1, 4.2), layout="constrained")
    for place, (name, cells) in enumerate(grown.items(), 1):
        axes = figure.add_subplot(1, len(grown), place)
        # Engines that ran at one size alone have no growth to show.
        for engine in dict.fromkeys(line.engine for cell in cells for line in cell.engines):
            points = [(cell.documents, line.p50_ms) for cell in cells if (line := cell.engine(engine)) is not None]
            if len(points) > 1:
                axes.plot(*zip(*points, strict=True), marker="o", linewidth=2 if engine == OURS else 1, label=engine)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("documents")
        axes.set_title(name, loc="left")
        _style(axes, "", "y")
        if place == 1:
            axes.set_ylabel(f"ms a query, median, k = {_K}")
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


def _style(axes: Axes, label: str, grid: str) -> None:
    if label:
        axes.set_xlabel(label)
    axes.grid(axis="both" if grid == "y" else "x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
