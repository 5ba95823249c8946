"""Pictures of a training for its run: plain numbers in, matplotlib figures out, drawn without any display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

OURS: Final = "#1f5fa8"
OURS_ASYMMETRIC: Final = "#7fa9d8"
OTHER: Final = "#c0652a"
REFERENCE: Final = "#555555"

_SIZE: Final = (7.0, 4.2)
_DPI: Final = 144


def quality_by_k(
    quality: str,
    codes: Mapping[int, float],
    pca: Mapping[int, float],
    dense: float,
    thin_documents: Mapping[int, float] | None = None,
) -> Figure:
    """Draw quality over k, with the dense embeddings as the line to reach and PCA as the line to beat.

    Args:
        quality: Name of what is measured, such as `nDCG@10`; values are shares of 1.
        codes: By k, on both sides.
        pca: By number of dimensions.
        dense: Of the embeddings themselves.
        thin_documents: By k of the documents, where queries keep k_max latents.
    """
    figure, axes = _canvas(f"{quality} by number of active latents")
    axes.axhline(dense, color=REFERENCE, linewidth=1.2, linestyle=(0, (5, 3)))
    lines = [("codes", codes, OURS, "o-")]
    if thin_documents:
        lines.append((f"codes, queries at k = {max(codes)}", thin_documents, OURS_ASYMMETRIC, "o--"))
    lines.append(("PCA", pca, OTHER, "s-"))
    ends = [("dense embeddings", dense, REFERENCE)]
    for label, line, colour, style in lines:
        if line:
            axes.plot([*line], [*line.values()], style, color=colour, linewidth=1.8, markersize=5)
            ends.append((label, line[max(line)], colour))
    ticks = sorted({*codes, *pca})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(ticks[0] / 1.1, ticks[-1] * 1.1)
    axes.set_xlabel("active latents k (PCA: dimensions)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: _percent(share)))
    axes.set_ylabel(quality)
    _label_ends(axes, ends)
    return figure


def usage_histogram(usage: NDArray[Any], rows: int) -> Figure:
    """Draw how often each latent is active, most used first.

    Args:
        usage: [h] in how many codes each latent is active.
        rows: Number of codes.
    """
    shares = np.sort(np.asarray(usage, np.float64))[::-1] / max(1, rows)
    used = shares[shares > 0]
    unused = len(shares) - len(used)
    figure, axes = _canvas(f"Use of {len(shares):,} latents by {rows:,} training rows")
    axes.fill_between(np.arange(1, len(used) + 1), used, 0.5 / max(1, rows), color=OURS, alpha=0.25, linewidth=0)
    axes.plot(np.arange(1, len(used) + 1), used, color=OURS, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_ylim(0.5 / max(1, rows), 1.3 * max(used.max(initial=0), 2 / max(1, rows)))
    axes.set_xlim(0, len(shares))
    even = shares.mean()
    axes.axhline(even, color=REFERENCE, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.annotate(
        f"even use: {_percent(even)}",
        (len(shares), even),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color=REFERENCE,
    )
    axes.annotate(
        f"{unused:,} unused ({_percent(unused / len(shares))})",
        (0.995, 0.94),
        xycoords="axes fraction",
        ha="right",
        color=OTHER if unused else REFERENCE,
    )
    axes.set_xlabel("latents, most used first")
    axes.set_ylabel("share of rows that use it (log scale)")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: _percent(share)))
    return figure


def dead_share_by_epoch(shares: Sequence[float]) -> Figure:
    """Draw the share of dead latents at the end of each epoch; `shares` are 0 … 1, epoch 1 first."""
    figure, axes = _canvas("Dead latents during training")
    epochs = np.arange(1, len(shares) + 1)
    axes.plot(
        epochs, shares, "o-" if len(shares) <= 60 else "-", color=OURS, linewidth=1.8, markersize=4, clip_on=False
    )
    axes.set_ylim(0, max(0.01, 1.15 * max(shares, default=0)))
    axes.set_xlim(0.5, max(2, len(shares)) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: _percent(share)))
    axes.set_xlabel("epoch")
    axes.set_ylabel("share of latents that are dead")
    if len(shares):
        _label_ends(axes, [(_percent(shares[-1]), shares[-1], OURS)])
    return figure


def as_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _canvas(title: str) -> tuple[Figure, Axes]:
    """Return an empty chart in the house style: no frame, faint lines across, the title on the left."""
    # Without pyplot: no global state, no display, and nothing to close.
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each line's name and last value at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [value for _, value, _ in ordered]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + gap)
    # Names pushed above the axes would meet the title: push down from the top in turn.
    heights[-1:] = [min(heights[-1], high)]
    for place in range(len(heights) - 2, -1, -1):
        heights[place] = min(heights[place], heights[place + 1] - gap)
    for (name, value, colour), height in zip(ordered, heights, strict=True):
        text = name if name.endswith("%") else f"{name}: {_percent(value)}"
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
