"""What the commands around models do and show, apart from the command line; imports torch, Ray and MLflow."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from csr_model import CSRConfig
from orchestration.cli.app import err
from orchestration.data.catalog import MINILM_NAME
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluate import Evaluation, evaluate
from orchestration.promote import Promotion
from orchestration.registry import ModelVersionInfo, Registry
from orchestration.train_job import TrainedVersion, TrainingProgress, train
from services.runtime.settings import Settings


def train_with_progress(
    loaded: Settings, rows: EmbeddedSplit, model: str | None = None, config: CSRConfig | None = None
) -> TrainedVersion:
    """Train and register, drawing a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("starting workers", total=None, detail="")

        def show(progress: TrainingProgress) -> None:
            described = {"starting": "starting workers", "training": "training (epochs)", "registering": "registering"}
            wanted = ("total", "dead_share", "rows_per_second")
            detail = "  ".join(f"{name} {progress.metrics[name]:,.3g}" for name in wanted if name in progress.metrics)
            bar.update(
                task,
                description=described[progress.phase],
                total=progress.epochs if progress.epochs_done else None,
                completed=progress.epochs_done,
                detail=detail,
            )

        return train(loaded, rows, config, model, MINILM_NAME, show)


def evaluate_version(registry: Registry, splits: dict[str, EmbeddedSplit], version: ModelVersionInfo) -> Evaluation:
    """Measure a registered version on the held-out split, against the training rows as documents."""
    documents, queries = splits["train"], splits["test"]
    adapter = registry.load(version)
    return evaluate(adapter, documents.embeddings, queries.embeddings, documents.labels, queries.labels)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Quality per k as a table for people, in percent."""
    table = Table("k", "1-NN %", "recall@10 %", "re-ranked 50 %", "dead latents %", "bytes/vector")
    for level in evaluation.levels:
        table.add_row(
            str(level.k),
            _percent(level.one_nn),
            _percent(level.recall),
            _percent(level.recall_reranked),
            _percent(level.dead_share),
            f"{level.bytes_per_vector:.0f}",
        )
    table.add_row(
        "dense", _percent(evaluation.dense_one_nn), "100.0", "100.0", "-", str(evaluation.dense_bytes_per_vector)
    )
    return table


def promotion_table(promotion: Promotion) -> Table:
    """Gates as a table for people."""
    table = Table("gate", "k", "value", "needed", "result")
    for gate in promotion.gates:
        result = "[green]passed[/green]" if gate.passed else "[red]failed[/red]"
        level = "" if gate.k is None else str(gate.k)
        table.add_row(gate.name, level, f"{gate.value:.4g}", gate.needed, result)
    return table


def verdict(promotion: Promotion) -> str:
    """What became of the alias, in a sentence."""
    name = f"{promotion.version.name} version {promotion.version.version}"
    return {
        "promoted": f"{name} is champion now.",
        "forced": f"{name} is champion now, by force; the reason is on the version's tags.",
        "unchanged": f"{name} was champion already.",
        "refused": f"{name} is not promoted: a gate failed. The alias champion stays where it was.",
    }[promotion.outcome]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
