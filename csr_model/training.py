"""A training run, advanced epoch by epoch: shared by `fit` and by distributed jobs.

The caller owns processes, checkpoints and reporting. Where torch.distributed is initialised, each rank
builds the same `Training` over the same rows and sees its share of every batch.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from csr_model.adapter import CSRAdapter, adapter_from_training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.batches import epoch_batches, steps_per_epoch
from csr_model.collectives import rank, sum_over_ranks, world_size
from csr_model.config import CSRConfig
from csr_model.dead_latents import DeadLatents
from csr_model.embeddings import checked_rows, summarize
from csr_model.errors import InvalidConfig, InvalidTrainingData, ResumeMismatch, TrainingDiverged
from csr_model.losses import CSRLoss
from csr_model.train_step import StepResult, train_step

_WARMUP_SHARE = 0.05
_DECAY_SHARE = 0.2
_ADAM_EPS = 6.25e-10
_USAGE_ROWS = 65_536


@dataclass(frozen=True)
class EpochReport:
    """Means over the steps and ranks of one epoch.

    Attributes:
        epoch: From 0.
        step: Optimizer steps done since the run began.
        total: The whole objective; the next three are its unweighted parts.
        gradient_norm: Before clipping.
        dead_share: Share of latents that are dead at the end of the epoch, 0 … 1.
        learning_rate: Of the last step.
        rows_per_second: Over all ranks; not part of equality.
    """

    epoch: int
    step: int
    total: float
    reconstruction: float
    auxiliary: float
    contrastive: float
    gradient_norm: float
    dead_share: float
    learning_rate: float
    rows_per_second: float = field(compare=False)


class Training:
    """Model, optimizer, counters and position of one run.

    Args:
        config: Checked against the data.
        embeddings: [n, d], in memory or memory-mapped; any real dtype. Rows are read batch by batch.
        labels: [n] of any comparable type; only used, and then required, when gamma is above 0.
        device: Where to train; `wrap` must not move the objective elsewhere.
        wrap: Applied once to the objective, for instance a DistributedDataParallel constructor.

    Raises:
        InvalidConfig: Batch size and ranks or dimensions disagree.
        InvalidTrainingData: Fewer rows than a batch, all rows alike, or unusable labels.
        InvalidVector: A row is not finite or has no direction.
    """

    def __init__(
        self,
        config: CSRConfig,
        embeddings: "np.ndarray[Any, Any]",
        labels: "np.ndarray[Any, Any] | None" = None,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda objective: objective,
    ) -> None:
        self.summary = summarize(embeddings, config.normalize)
        _check_batches(config, embeddings)
        self.config = config
        self.embeddings = embeddings
        self.labels = usable_labels(labels, len(embeddings)) if config.gamma else None
        self.device = torch.device(device)
        self.step = 0
        self.history: list[EpochReport] = []
        self.autoencoder = CSRAutoencoder.from_rows(
            config, self._initial_rows(), self.summary.mean, self.summary.variance
        ).to(self.device)
        self._objective = wrap(CSRLoss(self.autoencoder, config).to(self.device))
        self._optimizer = torch.optim.Adam(
            self._objective.parameters(), lr=config.learning_rate, eps=_ADAM_EPS, fused=True
        )
        self._dead_latents = DeadLatents(config.hidden_dim, config.dead_after_rows, self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return steps_per_epoch(self.summary.rows, self.config.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def epoch(self) -> int:
        """The epoch that `run_epoch` would work on, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """True when all epochs have run."""
        return self.step >= self.steps

    def run_epoch(self, on_step: Callable[[int, StepResult], None] | None = None) -> EpochReport:
        """Train to the end of the current epoch and append to `history`.

        Args:
            on_step: Called with the number of steps done and this rank's result; reading the result
                waits for the device.

        Raises:
            TrainingDiverged: A loss or gradient of the epoch was NaN or infinite.
        """
        assert not self.done, "all epochs have run"
        started, first_step, epoch = time.perf_counter(), self.step, self.epoch
        totals = torch.zeros(len(StepResult._fields), device=self.device)
        config, rate = self.config, 0.0
        position = self.step % self.steps_per_epoch
        batches = epoch_batches(
            self.summary.rows, config.batch_size, config.seed, epoch, position, rank(), world_size()
        )
        for rows in batches:
            rate = self._set_learning_rate()
            x, labels = self._batch(rows)
            result = train_step(self._objective, self._optimizer, self._dead_latents, x, labels, config.gradient_clip)
            self.step += 1
            totals += torch.stack(result)
            if on_step is not None:
                on_step(self.step, result)
        steps = self.step - first_step
        means = (sum_over_ranks(totals) / (steps * world_size())).tolist()
        if not np.isfinite(means).all():
            raise TrainingDiverged(f"epoch {epoch} ended with losses {means}; lower learning_rate")
        seconds = time.perf_counter() - started
        report = EpochReport(
            epoch=epoch,
            step=self.step,
            **dict(zip(StepResult._fields, means, strict=True)),
            dead_share=float(self._dead_latents.share()),
            learning_rate=rate,
            rows_per_second=steps * config.batch_size / seconds,
        )
        self.history.append(report)
        return report

    def adapter(self) -> CSRAdapter:
        """Return the adapter as trained so far; further training does not change it."""
        rows = np.linspace(0, self.summary.rows - 1, min(self.summary.rows, _USAGE_ROWS)).astype(np.int64)
        sample = checked_rows(self.embeddings[rows], self.config.input_dim)
        data = {"digest": self.summary.digest, "rows": self.summary.rows}
        return adapter_from_training(copy.deepcopy(self.autoencoder).cpu(), self.config, sample, data)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a later process needs to continue bit for bit.

        Tensors, numbers and strings only, so `torch.load(weights_only=True)` reads it. The order of
        rows needs no random state: it follows from seed and epoch.
        """
        return {
            "config": self.config.to_json(),
            "data_digest": self.summary.digest,
            "step": self.step,
            "autoencoder": self.autoencoder.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "dead_latents": self._dead_latents.state_dict(),
            "history": [dataclasses.asdict(report) for report in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run that `state` was taken from.

        Raises:
            ResumeMismatch: It was taken with another configuration or other data.
        """
        if CSRConfig.from_json(state["config"]) != self.config:
            raise ResumeMismatch("the checkpoint was written with another configuration; start a new run")
        if state["data_digest"] != self.summary.digest:
            raise ResumeMismatch("the checkpoint was written for other embeddings; start a new run")
        self.step = state["step"]
        self.autoencoder.load_state_dict(state["autoencoder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._dead_latents.load_state_dict(state["dead_latents"])
        self.history = [EpochReport(**report) for report in state["history"]]

    def _batch(self, rows: "np.ndarray[Any, Any]") -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(np.asarray(self.embeddings[rows], dtype=np.float32)).to(self.device)
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows]).to(self.device)
        return x, labels

    def _initial_rows(self) -> Tensor:
        random = np.random.default_rng(self.config.seed)
        count = min(self.summary.rows, self.config.hidden_dim)
        rows = np.sort(random.choice(self.summary.rows, count, replace=False))
        return checked_rows(self.embeddings[rows], self.config.input_dim)

    def _set_learning_rate(self) -> float:
        rate = self.config.learning_rate * learning_rate_factor(self.step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: up over the first 5 % of the steps, down over the last 20 %."""
    return min(1.0, (step + 1) / (_WARMUP_SHARE * steps), (steps - step) / (_DECAY_SHARE * steps))


def usable_labels(labels: "np.ndarray[Any, Any] | None", rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return labels as int64 class numbers [rows].

    Raises:
        InvalidTrainingData: Missing, of another length, all equal, or all different: the contrastive
            loss would be zero without saying so.
    """
    if labels is None:
        raise InvalidTrainingData("gamma is above 0 but labels are missing; pass labels or set gamma to 0")
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise InvalidTrainingData(f"labels have shape {labels.shape}; they must be [{rows}], one a row")
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) == 1:
        raise InvalidTrainingData(f"all {rows} labels are equal; a contrast needs at least two classes")
    if len(classes) == rows:
        raise InvalidTrainingData(f"all {rows} labels are different; no two rows form a positive pair")
    return numbers.astype(np.int64)


def _check_batches(config: CSRConfig, embeddings: "np.ndarray[Any, Any]") -> None:
    rows, input_dim = embeddings.shape
    if input_dim != config.input_dim:
        raise InvalidConfig(f"input_dim is {config.input_dim} but the embeddings have {input_dim} values a row")
    if rows < config.batch_size:
        raise InvalidTrainingData(f"{rows} rows do not fill a batch of {config.batch_size}; lower batch_size")
    if config.batch_size % world_size():
        raise InvalidConfig(f"batch_size is {config.batch_size}; it must be a multiple of {world_size()} ranks")
