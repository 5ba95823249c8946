"""A training run, advanced epoch by epoch: shared by `fit` and by distributed jobs.

The caller owns processes, checkpoints and reporting. Where torch.distributed is initialised, each rank
builds the same `Training` over the same rows and sees its share of every batch.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from csr_model.adapter import CSRAdapter, adapter_from_training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.batch_checks import check_batches, check_contrasts
from csr_model.batches import Pairs, Sampler, StepRows, steps_per_epoch
from csr_model.collectives import rank, sum_over_ranks, world_size
from csr_model.config import CSRConfig
from csr_model.dead_latents import DeadLatents
from csr_model.dropout import dropout_factors
from csr_model.embeddings import checked_rows, spread_rows, summarize
from csr_model.epoch_report import EpochReport
from csr_model.errors import InvalidTrainingData, ResumeMismatch, TrainingDiverged
from csr_model.linear_map import learn_linear_map
from csr_model.losses import Batch, CSRLoss
from csr_model.losses.paper import PaperLoss, published_autoencoder
from csr_model.neighbours import mine_neighbours
from csr_model.resampling import resample
from csr_model.schedule import learning_rate_factor, set_learning_rate
from csr_model.supervision import supervision_digest, usable_labels, usable_pairs
from csr_model.train_step import StepResult, train_step

_ADAM_EPS = 6.25e-10
_RESAMPLING_SHARE = 0.7
"""Latents that start again later than this share of the run would not finish learning."""
_USAGE_ROWS = 65_536


class Training:
    """Model, optimizer, counters and position of one run.

    Args:
        config: Checked against the data.
        embeddings: [n, d], in memory or memory-mapped; any real dtype. Rows are read batch by batch.
        labels: [n] of any comparable type; only used, and then required, when the configuration learns labels.
        pairs: The same for pairs.
        device: Where to train; `wrap` must not move the objective elsewhere.
        wrap: Applied once to the objective, for instance a DistributedDataParallel constructor.

    Raises:
        InvalidConfig: Batch size and ranks or dimensions disagree.
        InvalidTrainingData: Fewer rows than a batch, all rows alike, or unusable labels or pairs.
        InvalidVector: A row is not finite or has no direction.
    """

    def __init__(
        self,
        config: CSRConfig,
        embeddings: "np.ndarray[Any, Any]",
        labels: "np.ndarray[Any, Any] | None" = None,
        pairs: Pairs | None = None,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda objective: objective,
    ) -> None:
        self.summary = summarize(embeddings, config.normalize)
        check_batches(config, *embeddings.shape)
        self.config = config
        self.embeddings = embeddings
        self.labels = usable_labels(labels, len(embeddings)) if config.learns_labels else None
        self.pairs = usable_pairs(pairs, len(embeddings), config.batch_size) if config.learns_pairs else None
        check_contrasts(config, self.labels)
        self.data_digest = supervision_digest(self.summary.digest, self.labels, self.pairs)
        self.device = torch.device(device)
        self.step = 0
        self.history: list[EpochReport] = []
        self.resampled = 0
        self.autoencoder = CSRAutoencoder(
            config.input_dim, config.hidden_dim, config.decode_ks, config.normalize, config.linear_map != "none"
        ).to(self.device)
        make_loss = CSRLoss if config.mode == "multi_k" else PaperLoss
        self._loss = make_loss(self.autoencoder, config).to(self.device)
        self._wrap = wrap
        self._objective = wrap(self._loss)
        self._optimizer = torch.optim.Adam(
            self._objective.parameters(), lr=config.learning_rate, eps=_ADAM_EPS, fused=True
        )
        self._dead_latents = DeadLatents(config.hidden_dim, config.dead_after_rows, self.device)
        self._sampler = self._make_sampler()
        self._prepared = False

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
            InvalidTrainingData: No batch of the epoch held anything to contrast.
        """
        assert not self.done, "all epochs have run"
        if not self._prepared:
            self._prepare()
        started, first_step, epoch = time.perf_counter(), self.step, self.epoch
        totals = torch.zeros(len(StepResult._fields), device=self.device)
        config, rate = self.config, 0.0
        for step in range(self.step, (epoch + 1) * self.steps_per_epoch):
            rate = self._set_learning_rate()
            rows = self._sampler.step(step)
            batch = self._batch(rows)._replace(dropout=self._dropout(rows, step))
            progress = step / self.steps
            result = train_step(
                self._objective, self._optimizer, self._dead_latents, batch, progress, config.gradient_clip
            )
            self.step += 1
            totals += torch.stack(result)
            self._resample(batch)
            if on_step is not None:
                on_step(self.step, result)
        steps = self.step - first_step
        means = (sum_over_ranks(totals) / (steps * world_size())).tolist()
        if not np.isfinite(means).all():
            raise TrainingDiverged(f"epoch {epoch} ended with losses {means}; lower learning_rate")
        if config.contrasts and not means[StepResult._fields.index("contrastive")]:
            raise InvalidTrainingData(
                f"epoch {epoch} held nothing to contrast: all queries, or all documents, of a batch are alike, or no "
                f"labels met; raise batch_size or set the contrast's weight to 0"
            )
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
        sample = self._sample_rows()
        data = {"digest": self.summary.digest, "rows": self.summary.rows}
        return adapter_from_training(copy.deepcopy(self.autoencoder).cpu(), self.config, sample, data)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a later process needs to continue bit for bit.

        Tensors, numbers and strings only, so `torch.load(weights_only=True)` reads it. The order of
        rows needs no random state: it follows from seed and step.
        """
        return {
            "config": self.config.to_json(),
            "data_digest": self.data_digest,
            "step": self.step,
            "objective": self._loss.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "dead_latents": self._dead_latents.state_dict(),
            "resampled": self.resampled,
            "history": [dataclasses.asdict(report) for report in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run that `state` was taken from.

        Raises:
            ResumeMismatch: It was taken with another configuration or other data.
        """
        if CSRConfig.from_json(state["config"]) != self.config:
            raise ResumeMismatch("the checkpoint was written with another configuration; start a new run")
        if state["data_digest"] != self.data_digest:
            raise ResumeMismatch("the checkpoint was written for other embeddings, labels or pairs; start a new run")
        self.step = state["step"]
        self._loss.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._dead_latents.load_state_dict(state["dead_latents"])
        self.resampled = state["resampled"]
        self.history = [EpochReport(**report) for report in state["history"]]
        self._prepared = self.step > 0

    def _make_sampler(self) -> Sampler:
        config, rows = self.config, self.summary.rows
        pairs = self.pairs if config.gamma_pairs else None
        return Sampler(
            rows=rows,
            row_count=config.batch_size // (1 if pairs is None else 2),
            seed=config.seed,
            pairs=pairs,
            pair_count=0 if pairs is None else config.batch_size // 4,
            neighbours=mine_neighbours(self.embeddings, config.seed) if config.gamma_neighbours else None,
            rank=rank(),
            ranks=world_size(),
        )

    @torch.no_grad()
    def _prepare(self) -> None:
        """Set what is fixed before the first step: preprocessing and initial weights, alike on every rank."""
        config, model = self.config, self.autoencoder
        if config.mode == "paper":
            model.load_state_dict(published_autoencoder(config).state_dict())
        else:
            mean, variance = self.summary.mean, self.summary.variance
            if model.linear_map is not None:
                with torch.enable_grad():
                    pairs = self.pairs if config.linear_map == "pairs" else None
                    learned = learn_linear_map(config, self.summary.rows, pairs, self._batch, self.device, self._wrap)
                model.linear_map.copy_(learned)
                mapped = model.preprocess(self._sample_rows().to(self.device))
                mean = mapped.mean(0)
                variance = float((mapped - mean).square().sum(1).mean())
            model.mean.copy_(mean)
            model.scale.fill_(variance**-0.5)
            model.start_from_rows(self._initial_rows(), config.seed)
        self._prepared = True

    def _batch(self, step: StepRows) -> Batch:
        x = self._on_device(np.asarray(self.embeddings[step.rows], dtype=np.float32))
        labels = None if self.labels is None else self._on_device(self.labels[step.rows])
        return Batch(x, labels, step.pairs)

    def _on_device(self, values: "np.ndarray[Any, Any]") -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":  # from memory that is not pinned, a copy waits for the steps before it
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _dropout(self, rows: StepRows, step: int) -> Tensor | None:
        config = self.config
        if not config.input_dropout:
            return None
        factors = dropout_factors(rows.rows, config.input_dim, config.input_dropout, config.seed, step)
        return self._on_device(factors)

    def _initial_rows(self) -> Tensor:
        random = np.random.default_rng(self.config.seed)
        count = min(self.summary.rows, self.config.hidden_dim)
        rows = np.sort(random.choice(self.summary.rows, count, replace=False))
        return checked_rows(self.embeddings[rows], self.config.input_dim)

    def _sample_rows(self) -> Tensor:
        rows = spread_rows(self.summary.rows, _USAGE_ROWS)
        return checked_rows(self.embeddings[rows], self.config.input_dim)

    def _set_learning_rate(self) -> float:
        rate = self.config.learning_rate
        if self.config.mode == "multi_k":
            rate *= learning_rate_factor(self.step, self.steps)
        set_learning_rate(self._optimizer, rate)
        return rate

    def _resample(self, batch: Batch) -> None:
        """Start latents again that have been dead for a while; looked for as often as a latent can die."""
        config = self.config
        every = max(1, config.dead_after_rows // config.batch_size)
        if not config.resample or self.step % every or self.step > _RESAMPLING_SHARE * self.steps:
            return
        dead = self._dead_latents.mask()
        if dead is not None:
            changed = resample(self.autoencoder, self._optimizer, dead, batch.embeddings, config.k_max)
            self._dead_latents.forget(changed)
            self.resampled += len(changed)
