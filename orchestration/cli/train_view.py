"""A training job as people see it: a bar on a terminal, lines elsewhere, and what the recipe chose."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from csr_model.recipe import Choice
from orchestration.cli.app import err
from orchestration.data.catalog import MINILM_NAME, SETS
from orchestration.data.sets import EmbeddedSet
from orchestration.train_files import TrainingProgress
from orchestration.train_job import Load, OnProgress, TrainedVersion, Validation, train
from services.runtime.settings import Settings

_PHASES: Final = {
    "starting": "starting workers",
    "choosing": "choosing the recipe",
    "training": "training",
    "registering": "registering",
    "measuring": "measuring",
}
_STEPS: Final = 1_000
"""Of the bar, in a whole run."""


def train_with_progress(
    loaded: Settings,
    data: EmbeddedSet | Load,
    model: str | None = None,
    chosen: Mapping[str, Any] | None = None,
    validation: Validation | None = Validation(),
    console: Console = err,
) -> TrainedVersion:
    """Train what the recipe chooses and register it, drawing progress on standard error."""
    hidden_dim, backbone = (chosen or {}).get("hidden_dim"), None
    if isinstance(data, EmbeddedSet):
        backbone = MINILM_NAME if data.name in SETS and any(data.train.texts) else None
        _warn(console, len(data.train.embeddings), hidden_dim)
    else:
        data = _warned(data, console, hidden_dim)
    with progress_on(console) as show:
        return train(loaded, data, None, chosen, model, backbone, validation, show)


def _warned(load: Load, console: Console, hidden_dim: int | None) -> Load:
    """Return the same, warning once the rows are counted."""

    def warned(folder: Path) -> EmbeddedSet:
        data = load(folder)
        _warn(console, len(data.train.embeddings), hidden_dim)
        return data

    return warned


def progress_on(console: Console) -> AbstractContextManager[OnProgress]:
    """Show progress as a bar on a terminal, elsewhere as a line for each phase and epoch."""
    return _bar(console) if console.is_terminal else _lines(console)


def choice_text(choice: Choice) -> str:
    """Return what the recipe chose, from what, in a sentence."""
    if not choice.scores:
        return f"Recipe: {choice.name}."
    scores = ", ".join(f"{name} {100 * score:.1f}" for name, score in choice.scores.items())
    return f"Recipe: {choice.name} (validation %: {scores}; chosen in {choice.seconds:.0f} s)."


def _warn(console: Console, rows: int, hidden_dim: int | None) -> None:
    if hidden_dim is not None and hidden_dim > rows // 2:
        console.print(
            f"warning: {hidden_dim:,} latents for {rows:,} rows; above {rows // 2:,}, half the rows, latents stand for "
            "single rows instead of what rows share",
            style="yellow",
            soft_wrap=True,
        )


@contextmanager
def _bar(console: Console) -> Iterator[OnProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[epochs]}"),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(_PHASES["starting"], total=None, epochs="", numbers="")

        def show(progress: TrainingProgress) -> None:
            trained = progress.phase in ("registering", "measuring")  # which patience may begin early
            bar.update(
                task,
                description=_PHASES[progress.phase],
                total=_STEPS if progress.phase == "training" else None,
                completed=_STEPS if trained else progress.share * _STEPS,
                epochs=f"{progress.epochs_done}/{progress.epochs} epochs" if progress.epochs else "",
                numbers=_numbers(progress.metrics),
            )

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[OnProgress]:
    # Epochs shorter than the half second between two calls share a line.
    said: list[object] = []

    def show(progress: TrainingProgress) -> None:
        news = (progress.phase, progress.epochs_done)
        if said and said[-1] == news:
            return
        said.append(news)
        line = _PHASES[progress.phase]
        if progress.phase == "training" and progress.epochs_done:
            line = f"epoch {progress.epochs_done}/{progress.epochs}  {_numbers(progress.metrics)}"
        console.print(line, highlight=False)

    yield show


def _numbers(metrics: Mapping[str, float]) -> str:
    formats: dict[str, Callable[[float], str]] = {
        "total": lambda value: f"loss {value:.4g}",
        "dead_share": lambda value: f"dead {100 * value:.1f} %",
        "validation_score": lambda value: f"validation {100 * value:.1f} %",
        "rows_per_second": lambda value: f"{value:,.0f} rows/s",
    }
    return "  ".join(show(metrics[name]) for name, show in formats.items() if name in metrics)
