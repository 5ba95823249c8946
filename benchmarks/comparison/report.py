"""The findings as a page of tables, losses included, and as JSON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.comparison import bars
from benchmarks.comparison.findings import OURS, Finding, difference, equal_bytes, equal_count, fat_queries
from benchmarks.comparison.outcome import KS
from benchmarks.comparison.pictures import picture_name
from benchmarks.comparison.quantised import BYTES
from benchmarks.comparison.statistics import Difference

_K_NAMES = [f"k = {k}" for k in KS]

INTRODUCTION = """\
# Quality

Made by `python -m benchmarks.quality`. Scores are percentages over the full test sets: nDCG@10 with the ideal ranking
from all judgements, or 1-NN accuracy with the training rows as neighbours. Every search is exact.

- **Ours** is `csr_model.fit(x, labels | pairs)` with nothing else set: one adapter for every k, mean of the seeds.
- **Competitors** have one seed and a learning rate out of 1e-4, 3e-4, 1e-3, 3e-3, chosen on a tenth of the training
  rows or pairs held out by id hash, in a training of the same length; methods with one model for each k choose at
  k = 16 for k up to 16, and at 32 and 64 themselves. All see 256,000 rows, fewer in inverse proportion to d above
  640: at least as many as ours.
- **Official SAE, official CSR**: the published losses with the authors' values (`csr_model.losses.paper`), γ = 0 and
  0.1, h = 4d. **sentence-transformers**: its own module and CSRLoss at k = 64, prefixes for smaller k, trained on given
  pairs, pairs of one label, or each row with itself. **MRL**: a linear head on the frozen embeddings with the contrasts
  that ours uses. Quantised documents are searched with float32 queries.
- **Above** and **below** mean that the 95 % interval of a paired bootstrap over queries excludes 0; else it is a tie.
- A code takes 4 bytes an active latent, PCA and MRL 2 a dimension (float16), int8 1, product quantisation 1 a part.
"""


def markdown(found: dict[str, dict[str, Finding]]) -> str:
    """Return the page.

    Args:
        found: Set → method name → finding.
    """
    return "\n".join([INTRODUCTION, *(_section(name, methods) for name, methods in found.items() if methods)])


def as_json(found: dict[str, dict[str, Finding]]) -> dict[str, Any]:
    """Return every number of the page."""
    return {
        name: {finding.method.name: _as_json(finding, methods.get(OURS)) for finding in methods.values()}
        for name, methods in found.items()
    }


def _as_json(finding: Finding, ours: Finding | None) -> dict[str, Any]:
    differences = {}
    if ours is not None and finding is not ours:
        compared = {variant: difference(ours, finding, variant) for variant in finding.scores}
        differences = {
            variant: {**found._asdict(), "verdict": found.verdict} for variant, found in compared.items() if found
        }
    return {
        "measure": finding.measure,
        "quality": {variant: finding.quality(variant) for variant in finding.scores},
        "overlap_with_dense": finding.overlaps,
        "dead_shares": finding.dead_shares,
        "training_seconds": finding.seconds,
        "rows_seen": finding.rows_seen,
        "learning_rates": finding.learning_rates,
        "choice": finding.choice,
        "ours_minus_this": differences,
    }


def _section(name: str, methods: dict[str, Finding]) -> str:
    first = next(iter(methods.values()))
    parts = [f"## {name}: {first.measure}\n", f"![{first.measure} by k]({picture_name(name)})\n"]
    if "dense" in methods:
        parts.append(f"Dense embeddings: {methods['dense'].quality('full'):.1f}.\n")
    parts.append(
        _quality("Equal number of active latents or dimensions", equal_count(), methods, bars.EQUAL_K.get(name))
    )
    if any(variant in finding.scores for finding in methods.values() for variant in fat_queries()[:-1]):
        fat = {key: finding for key, finding in methods.items() if fat_queries()[0] in finding.scores}
        parts.append(_quality("Queries at k = 64", fat_queries(), fat, bars.FAT_QUERIES.get(name)))
    parts.append(_quality("Equal bytes a document", equal_bytes(), methods, None, [f"{size} B" for size in BYTES]))
    parts.append(_details(methods))
    return "\n".join(parts)


def _quality(
    title: str,
    variants: Sequence[str],
    methods: dict[str, Finding],
    bar: bars.Bar | None,
    names: Sequence[str] = _K_NAMES,
) -> str:
    """Return a table of qualities, and under ours how far it is from each of the others."""
    ours = methods.get(OURS)
    rows = []
    if bar is not None:
        rows += [["*at least*", *map(_number, bar.least)], ["*aim*", *map(_number, bar.aim)]]
    for finding in _with_ours_first(methods):
        if not any(variant in finding.scores for variant in variants):
            continue
        cells = []
        for variant in variants:
            gap = None if ours is None or finding is ours else difference(ours, finding, variant)
            cells.append(_with_gap(finding.quality(variant), gap))
        rows.append([f"**{finding.method.title}**" if finding is ours else finding.method.title, *cells])
    caption = f"### {title}\n\nIn brackets: ours minus this, its 95 % interval, and what that makes ours.\n"
    return f"{caption}\n{_table(['', *names], rows)}"


def _details(methods: dict[str, Finding]) -> str:
    columns: list[tuple[str, Callable[[Finding], str]]] = [
        ("", lambda finding: finding.method.title),
        ("dense top-10 kept, k = 8 / 32", lambda finding: _pair(finding.overlaps)),
        ("latents no query uses, k = 8 / 32", lambda finding: _pair(finding.dead_shares)),
        ("training, s", lambda finding: f"{finding.seconds:.0f}"),
        ("rows seen", lambda finding: f"{finding.rows_seen:,}"),
        ("chosen", _chosen),
    ]
    rows = [[cell(finding) for _, cell in columns] for finding in _with_ours_first(methods)]
    note = "Seconds of one processor thread; of the five models together where each k has its own.\n"
    return f"### Training\n\n{note}\n{_table([name for name, _ in columns], rows)}"


def _with_ours_first(methods: dict[str, Finding]) -> list[Finding]:
    return sorted(
        (finding for finding in methods.values() if finding.method.name != "dense"),
        key=lambda finding: finding.method.name != OURS,
    )


def _with_gap(quality: float | None, gap: Difference | None) -> str:
    if quality is None:
        return "–"
    if gap is None:
        return f"{quality:.1f}"
    verdict = f"**{gap.verdict}**" if gap.verdict == "below" else gap.verdict
    return f"{quality:.1f} ({gap.mean:+.1f}; {gap.low:+.1f} … {gap.high:+.1f}; {verdict})"


def _pair(values: dict[str, float]) -> str:
    shown = [f"{100 * values[variant]:.0f} %" if variant in values else "–" for variant in ("k8", "k32")]
    return "" if shown == ["–", "–"] else " / ".join(shown)


def _number(value: float) -> str:
    return f"{value:g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _chosen(finding: Finding) -> str:
    """Return learning rates, of small k first, or what a recipe chose."""
    return (
        f"lr {', '.join(f'{rate:g}' for rate in finding.learning_rates)}" if finding.learning_rates else finding.choice
    )
