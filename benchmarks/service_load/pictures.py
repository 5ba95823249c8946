"""Latency beside a bare echo, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.service_load.outcome import Outcome, Searching

PICTURE: Final = "service-latency.png"
_ROUTER, _ECHO = "#0072b2", "#999999"
_PARTS: Final = (
    ("kernels_ms", "index: search", "#0072b2", ""),
    ("index_server_ms", "index: around it", "#56b4e9", ""),
    ("encode_ms", "encode", "#009e73", ""),
    ("router_ms", "router", "#e69f00", ""),
    ("index_wire_ms", "wire: index", "#dddddd", "///"),
    ("encoder_wire_ms", "wire: encoder", "#bbbbbb", "..."),
    ("client_wire_ms", "wire: client", "#888888", ""),
)
"""Okabe and Ito's colours, which the colour-blind can tell apart; the three greys differ in their pattern, too."""


def draw(outcome: Outcome, folder: Path) -> Path:
    """Write the picture and return its path."""
    figure = Figure(figsize=(10, 2.2 + 0.5 * len(outcome.searching)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _latencies(left, outcome.searching)
    _split(right, outcome.searching)
    style: dict[str, Any] = {"frameon": False, "fontsize": "small"}
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", **style)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, **style)
    path = folder / PICTURE
    figure.savefig(path, dpi=144)
    return path


def _latencies(axes: Axes, found: Sequence[Searching]) -> None:
    rows = np.arange(len(found))
    for offset, name, colour, of in (
        (-0.18, "through the router", _ROUTER, [searching.service for searching in found]),
        (0.18, "bare echo of the same messages", _ECHO, [searching.echo for searching in found]),
    ):
        starts, ends = [latency.p50_ms for latency in of], [latency.p99_ms for latency in of]
        axes.hlines(rows + offset, starts, ends, color=colour, linewidth=2)
        axes.scatter(starts, rows + offset, c=colour, s=44, zorder=3, label=name)
        axes.scatter([latency.p95_ms for latency in of], rows + offset, c=colour, s=60, marker="|", zorder=3)
        axes.scatter(ends, rows + offset, c=colour, s=36, marker=">", zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(rows, [_name(searching) for searching in found])
    axes.invert_yaxis()
    axes.set_title("Latency of one query", loc="left")
    _style(axes, "ms at the client: dot median, bar 95 %, arrow 99 %")


def _split(axes: Axes, found: Sequence[Searching]) -> None:
    rows = np.arange(len(found))
    ends = np.zeros(len(found))
    for attribute, label, colour, pattern in _PARTS:
        shares = np.array([100 * getattr(searching.split, attribute) / searching.split.total_ms for searching in found])
        axes.barh(rows, shares, 0.6, ends, color=colour, hatch=pattern, edgecolor="white", linewidth=0.5, label=label)
        ends += shares
    axes.set_xlim(0, 100)
    axes.set_title("Where its mean time goes", loc="left")
    _style(axes, "% of the mean time at the client")


def _name(found: Searching) -> str:
    return f"{found.form}, {found.documents:,}\n{found.clients} client{'' if found.clients == 1 else 's'}"


def _style(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
