"""What each rank of a training job does. Imported on the ranks: no MLflow here."""

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypedDict

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint

from csr_model import CSRConfig, Training
from csr_model.collectives import from_first_rank
from csr_model.recipe import choose
from csr_model.train_step import StepResult
from orchestration.train_files import (
    TrainingProgress,
    TrainingRows,
    read_choice,
    read_rows,
    write_choice,
    write_progress,
)
from orchestration.train_validation import BestEpoch, Questions

STATE_FILE: Final = "state.pt"
ADAPTER_FOLDER: Final = "adapter"
VALIDATION_METRIC: Final = "validation_score"

_PROGRESS_SECONDS: Final = 1.0


class RankTask(TypedDict):
    """What the driver tells every rank; files and folders are the same on every node."""

    folder: str
    """Of the job, see `train_files`."""
    embeddings: str
    """File."""
    config: str | None
    """CSRConfig as JSON; None lets the recipe choose."""
    chosen: Mapping[str, Any]
    """Fields of CSRConfig that are given to the recipe."""
    validate_every: int
    """Epochs between two validation scores on held-out rows; 0 scores none."""
    patience: int | None
    """Epochs without a better score after which to stop with the best; None runs to the end."""


def train_on_rank(task: RankTask) -> None:
    """Train to the last epoch, from the newest checkpoint if there is one.

    Every epoch ends with a report of all ranks and a checkpoint of the first: configuration, model, optimizer, dead
    counters, position and the best epoch so far (the order of rows follows from seed and step, so there is no random
    state). The last checkpoint also holds the finished adapter, with the metrics of its epoch.
    """
    folder = Path(task["folder"])
    rows, held_out = read_rows(folder, Path(task["embeddings"]))
    state = _newest_state()
    config = CSRConfig.from_json(state["training"]["config"]) if state else _configuration(task, rows)
    learned = rows.without(held_out)
    training = Training(
        config, learned.embeddings, learned.labels, learned.pairs, ray.train.torch.get_device(), _prepare
    )
    best = BestEpoch(task["patience"])
    if state:
        training.load_state_dict(state["training"])
        best = BestEpoch(**state["best"])
    questions = None
    if held_out is not None and task["validate_every"] and _is_first():
        questions = Questions.of(rows, held_out)
    teller = _Teller(folder, training)
    teller.tell()
    while not _finished(training, best):
        report: dict[str, Any] = dataclasses.asdict(training.run_epoch(teller.on_step if _is_first() else None))
        if task["validate_every"] and (training.epoch % task["validate_every"] == 0 or training.done):
            score = from_first_rank(questions.score(training) if questions else 0.0, training.device)
            report[VALIDATION_METRIC] = score
            best.note(score, report, training)
        _hand_in(report, training, best)
        teller.tell(report)


def _prepare(objective: torch.nn.Module) -> torch.nn.Module:
    prepared: torch.nn.Module = ray.train.torch.prepare_model(objective)
    return prepared


def _is_first() -> bool:
    return bool(ray.train.get_context().get_world_rank() == 0)


def _newest_state() -> dict[str, Any] | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        device = ray.train.torch.get_device()
        state: dict[str, Any] = torch.load(Path(folder) / STATE_FILE, map_location=device, weights_only=True)
        return state


def _configuration(task: RankTask, rows: TrainingRows) -> CSRConfig:
    """Return the given configuration, or what the recipe chose before a restart or chooses now, on all ranks."""
    if task["config"] is not None:
        return CSRConfig.from_json(task["config"])
    folder = Path(task["folder"])
    choice = read_choice(folder)
    if choice is None:
        if _is_first():
            write_progress(folder, TrainingProgress("choosing"))
        device = ray.train.torch.get_device()
        choice = choose(rows.embeddings, rows.labels, rows.pairs, rows.ids, device, _prepare, task["chosen"])
        if _is_first():
            write_choice(folder, choice)
    return choice.config


def _finished(training: Training, best: BestEpoch) -> bool:
    return training.done or best.exhausted(training)


def _hand_in(report: Mapping[str, Any], training: Training, best: BestEpoch) -> None:
    """Report an epoch to Ray Train, with a checkpoint from the first rank."""
    if not _is_first():
        ray.train.report(report)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"training": training.state_dict(), "best": vars(best)}, Path(folder) / STATE_FILE)
        if _finished(training, best):
            if best.weights is not None:
                training.autoencoder.load_state_dict(best.weights)
            metrics = {name: float(value) for name, value in (best.metrics or report).items()}
            training.adapter().save(Path(folder) / ADAPTER_FOLDER, metrics=metrics)
        ray.train.report(report, checkpoint=Checkpoint.from_directory(folder))


class _Teller:
    """Says where the first rank stands, about once a second: reading a loss waits for the device."""

    def __init__(self, folder: Path, training: Training) -> None:
        self._folder = folder
        self._training = training
        self._metrics = dataclasses.asdict(training.history[-1]) if training.history else {}
        self._next = 0.0

    def on_step(self, step: int, result: StepResult) -> None:
        """Tell, if it is time, and look at this rank's loss for it."""
        if time.monotonic() >= self._next:
            self.tell({"total": float(result.total)})

    def tell(self, metrics: Mapping[str, float] | None = None) -> None:
        """Tell the newest numbers."""
        if not _is_first():
            return
        self._metrics |= metrics or {}
        training = self._training
        share = training.step / training.steps
        epochs_done, epochs = len(training.history), training.config.epochs
        write_progress(self._folder, TrainingProgress("training", epochs_done, epochs, share, self._metrics))
        self._next = time.monotonic() + _PROGRESS_SECONDS
