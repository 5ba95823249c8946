"""What finished cells say about each method on a set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.cells import Results, final_cells, planned
from benchmarks.comparison.methods import Method
from benchmarks.comparison.outcome import FAT_QUERY_K, KS
from benchmarks.comparison.problem import TOP_N
from benchmarks.comparison.quantised import BYTES, BYTES_PER_LATENT
from benchmarks.comparison.statistics import Difference, paired_difference
from csr_model import metrics

OURS = "ours"


@dataclass(frozen=True, eq=False)
class Finding:
    """One method on one set, averaged over its seeds query by query.

    Attributes:
        method: With its title.
        measure: What scores are.
        scores: Variant → each query's score [q], 0 … 1.
        overlaps: Variant → mean share of the 10 dense neighbours among the 10 hits.
        dead_shares: Variant → share of latents that no query uses.
        seconds: Processor time of training, one seed; of all k together where each has its model.
        rows_seen: By one training.
        learning_rates: As chosen by validation, of small k first; none if there was nothing to choose.
        choice: What the first seed decided by itself.
    """

    method: Method
    measure: str
    scores: dict[str, NDArray[np.float64]]
    overlaps: dict[str, float]
    dead_shares: dict[str, float]
    seconds: float
    rows_seen: int
    learning_rates: tuple[float, ...]
    choice: str

    def quality(self, variant: str) -> float | None:
        """Return the mean score in percent, or None for a variant that the method has not."""
        scores = self.scores.get(variant)
        return None if scores is None else 100 * float(scores.mean())


def equal_count() -> list[str]:
    """Return the variants with as many active latents, or dimensions, on both sides."""
    return [f"k{k}" for k in KS]


def fat_queries() -> list[str]:
    """Return the variants whose queries have k = 64."""
    return [f"k{k}q{FAT_QUERY_K}" if k < FAT_QUERY_K else f"k{k}" for k in KS]


def equal_bytes() -> list[str]:
    """Return the variants of so many bytes a document."""
    return [f"{size}B" for size in BYTES]


def findings(set_name: str, methods: tuple[Method, ...], results: Results) -> dict[str, Finding]:
    """Return what is finished, by method name; a method with missing cells is left out.

    Raises:
        ValueError: Cells were computed on different data, so that they cannot be compared.
    """
    finished = [method for method in methods if _is_finished(set_name, method, results)]
    digests = {results.read(cell)["digest"] for method in finished for cell in final_cells(set_name, method, results)}
    if len(digests) > 1:
        raise ValueError(
            f"the cells of {set_name} come from {len(digests)} versions of the data; start in a new folder"
        )
    dense = next((method for method in finished if method.name == "dense"), None)
    expected = None
    if dense is not None:
        expected = results.arrays(final_cells(set_name, dense, results)[0])["ranking/full"]
    return {method.name: _finding(set_name, method, results, expected) for method in finished}


def difference(ours: Finding, other: Finding, variant: str) -> Difference | None:
    """Return ours − other in percent with its interval, or None where one of them has no such variant."""
    if variant not in ours.scores or variant not in other.scores:
        return None
    return paired_difference(100 * ours.scores[variant], 100 * other.scores[variant])


def _is_finished(set_name: str, method: Method, results: Results) -> bool:
    return all(results.has(cell) and cell.phase == "test" for cell in planned([set_name], (method,), results))


def _finding(set_name: str, method: Method, results: Results, expected: NDArray[Any] | None) -> Finding:
    cells = final_cells(set_name, method, results)
    records = [results.read(cell) for cell in cells]
    scores: dict[str, list[NDArray[Any]]] = {}
    overlaps: dict[str, list[float]] = {}
    dead: dict[str, list[float]] = {}
    for cell, record in zip(cells, records, strict=True):
        for name, values in results.arrays(cell).items():
            kind, variant = name.split("/")
            if kind == "scores":
                scores.setdefault(variant, []).append(values)
            elif expected is not None:
                overlaps.setdefault(variant, []).append(metrics.recall(values[:, :TOP_N], expected))
        for variant, share in record["dead_shares"].items():
            dead.setdefault(variant, []).append(share)
    mean_scores = {variant: np.asarray(np.mean(values, axis=0)) for variant, values in scores.items()}
    if dead:  # codes: so many latents are so many bytes
        mean_scores |= {f"{BYTES_PER_LATENT * k}B": mean_scores[f"k{k}"] for k in KS}
    return Finding(
        method=method,
        measure=records[0]["measure"],
        scores=mean_scores,
        overlaps={variant: float(np.mean(values)) for variant, values in overlaps.items()},
        dead_shares={variant: float(np.mean(values)) for variant, values in dead.items()},
        seconds=sum(record["seconds"] for record in records) / method.seeds,
        rows_seen=records[0]["rows_seen"],
        learning_rates=tuple(
            dict.fromkeys(cell.settings.learning_rate for cell in cells if cell.settings.learning_rate)
        ),
        choice=records[0]["choice"],
    )
