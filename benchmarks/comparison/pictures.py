"""Quality over k, a picture a set."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.comparison.findings import OURS, Finding, equal_count
from benchmarks.comparison.outcome import KS

_STYLES = {
    OURS: ("#1f5fa8", "o-"),
    "official-sae": ("#2f8f5b", "^--"),
    "official-csr": ("#8a5bb0", "v--"),
    "sentence-transformers": ("#b08a1e", "d--"),
    "mrl": ("#c0652a", "s-"),
    "pca": ("#999999", "s:"),
}


def picture_name(set_name: str) -> str:
    """Return the file name of a set's picture."""
    return f"quality-{set_name}.png"


def quality_over_k(name: str, methods: dict[str, Finding]) -> Figure:
    """Draw the methods with as many active latents or dimensions, and the dense embeddings as a line."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if "dense" in methods:
        dense = methods["dense"].quality("full")
        assert dense is not None
        axes.axhline(dense, color="#333333", linewidth=1, linestyle=(0, (4, 3)), label="dense embeddings")
    for method, (colour, style) in _STYLES.items():
        if method not in methods:
            continue
        points = [(k, methods[method].quality(variant)) for k, variant in zip(KS, equal_count(), strict=True)]
        drawn = [(k, quality) for k, quality in points if quality is not None]
        axes.plot(*zip(*drawn, strict=True), style, color=colour, label=methods[method].method.title, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(KS, [str(k) for k in KS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("active latents k, or dimensions")
    axes.set_ylabel(f"{next(iter(methods.values())).measure}, %")
    axes.set_title(name, loc="left")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def draw(found: dict[str, dict[str, Finding]], folder: Path) -> list[Path]:
    """Write one PNG for each set that has findings, and return their paths."""
    paths = []
    for name, methods in found.items():
        if methods:
            paths.append(folder / picture_name(name))
            quality_over_k(name, methods).savefig(paths[-1], dpi=144)
    return paths
