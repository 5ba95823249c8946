"""The comparison as cells: one training each, computed once, kept as files, shared by any number of processes."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from benchmarks.comparison.methods import Method
from benchmarks.comparison.outcome import KS, Outcome
from benchmarks.comparison.problem import Problem
from benchmarks.comparison.settings import Settings

Phase = Literal["validation", "test"]
Problems = Callable[[str, Phase], Problem]
"""(set, phase) → problem."""

SELECTION_KS = (16, 32, 64)
"""Where methods with a model for each k choose their learning rate: each k at the least of these that reaches it."""

_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True)
class Cell:
    """One training of a method on a set; `learning_rate` is chosen among validation cells before test cells exist."""

    set_name: str
    method: str
    phase: Phase
    settings: Settings

    @property
    def name(self) -> str:
        """Of its files, without suffix."""
        k, rate, seed = self.settings
        parts = [self.set_name, self.method, self.phase]
        if k is not None:
            parts.append(f"k{k}")
        if rate is not None:
            parts.append(f"lr{rate:g}")
        return "_".join([*parts, f"seed{seed}"])


class Results:
    """Finished cells in a folder: a JSON file each, with arrays by query in an .npz file beside it.

    Args:
        folder: Made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, cell: Cell) -> bool:
        """Return whether the cell is finished."""
        return self._path(cell).exists()

    def read(self, cell: Cell) -> dict[str, Any]:
        """Return what `write` kept as JSON."""
        record: dict[str, Any] = json.loads(self._path(cell).read_text())
        return record

    def arrays(self, cell: Cell) -> dict[str, NDArray[Any]]:
        """Return `scores/VARIANT` [q] float32 and `ranking/VARIANT` [q, 10] int32 of every variant."""
        with np.load(self._path(cell).with_suffix(".npz")) as stored:
            return dict(stored)

    def write(self, cell: Cell, problem: Problem, outcome: Outcome) -> None:
        """Keep a finished cell; the JSON file appears last, so a cell that is there is whole."""
        scores = {variant: problem.scores(ranking) for variant, ranking in outcome.rankings.items()}
        arrays = {f"scores/{variant}": values.astype(np.float32) for variant, values in scores.items()}
        if cell.phase == "test":
            arrays |= {f"ranking/{variant}": ranking.astype(np.int32) for variant, ranking in outcome.rankings.items()}
        path = self._path(cell)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
        record = {
            "set": cell.set_name,
            "method": cell.method,
            "phase": cell.phase,
            **cell.settings._asdict(),
            "measure": problem.measure,
            "digest": problem.digest(),
            "queries": len(problem.queries),
            "quality": {variant: float(np.mean(values)) for variant, values in scores.items()},
            "dead_shares": outcome.dead_shares,
            "seconds": outcome.seconds,
            "rows_seen": outcome.rows_seen,
            "choice": outcome.choice,
        }
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(record, indent=1))
        unfinished.rename(path)

    def lock(self, cell: Cell) -> FileLock:
        """Return the claim on a cell; the system lets go of it when its process ends, however it ends."""
        return FileLock(self._path(cell).with_suffix(".lock"))

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"


def compute(
    sets: list[str], methods: tuple[Method, ...], results: Results, problems: Problems, say: Callable[[str], None]
) -> None:
    """Compute every missing cell; other processes may do so in the same folder at the same time.

    Args:
        sets: In this order.
        methods: In this order within a set.
        results: Where finished cells are kept.
        problems: Loads sets.
        say: Called with a line of progress.
    """
    by_name = {method.name: method for method in methods}
    problems = lru_cache(maxsize=2)(problems)
    while pending := [cell for cell in planned(sets, methods, results) if not results.has(cell)]:
        if not any(_claim_and_compute(cell, by_name, results, problems, say) for cell in pending):
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def planned(sets: list[str], methods: tuple[Method, ...], results: Results) -> Iterator[Cell]:
    """Yield the cells that are known: a method's test cells follow from its validation cells."""
    for set_name in sets:
        for method in methods:
            trials = validation_cells(set_name, method)
            if all(results.has(cell) for cell in trials):
                yield from final_cells(set_name, method, results)
            else:
                yield from trials


def validation_cells(set_name: str, method: Method) -> list[Cell]:
    """Return one cell for each learning rate to choose from, at each k where one is chosen."""
    ks: tuple[int | None, ...] = SELECTION_KS if method.per_k else (None,)
    return [
        Cell(set_name, method.name, "validation", Settings(k, rate, 0)) for k in ks for rate in method.learning_rates
    ]


def final_cells(set_name: str, method: Method, results: Results) -> list[Cell]:
    """Return the cells on the test split, each with the learning rate of the best validation cell."""
    ks: tuple[int | None, ...] = KS if method.per_k else (None,)
    return [
        Cell(set_name, method.name, "test", Settings(k, chosen_learning_rate(set_name, method, results, k), seed))
        for k in ks
        for seed in range(method.seeds)
    ]


def chosen_learning_rate(set_name: str, method: Method, results: Results, k: int | None = None) -> float | None:
    """Return the rate whose validation quality, averaged over every k with equal k on both sides, is highest.

    Args:
        set_name: Of the validation cells.
        method: Of the validation cells.
        results: Where they are.
        k: To train, for methods with a model for each k.
    """

    def quality(cell: Cell) -> float:
        by_variant = results.read(cell)["quality"]
        return float(np.mean([by_variant[f"k{k}"] for k in KS if f"k{k}" in by_variant]))

    cells = [cell for cell in validation_cells(set_name, method) if cell.settings.k == _selection_k(k)]
    return max(cells, key=quality).settings.learning_rate if cells else None


def _selection_k(k: int | None) -> int | None:
    return None if k is None else next(selecting for selecting in SELECTION_KS if k <= selecting)


def _claim_and_compute(
    cell: Cell, methods: dict[str, Method], results: Results, problems: Problems, say: Callable[[str], None]
) -> bool:
    """Compute the cell unless another process has it or has finished it, and return whether it is finished now."""
    try:
        with results.lock(cell).acquire(timeout=0):
            if results.has(cell):
                return True
            problem = problems(cell.set_name, cell.phase)
            started = time.monotonic()
            outcome = methods[cell.method].run(problem, cell.settings)
            results.write(cell, problem, outcome)
    except Timeout:
        return False
    quality = " ".join(f"{k}:{100 * value:.1f}" for k, value in results.read(cell)["quality"].items() if "q" not in k)
    say(f"{cell.name}: {quality} ({outcome.seconds:.0f} s training, {time.monotonic() - started:.0f} s in all)")
    return True
