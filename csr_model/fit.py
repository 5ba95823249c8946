"""Train an adapter in this process, from arrays in memory or memory-mapped."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from csr_model.adapter import CSRAdapter
from csr_model.config import CSRConfig
from csr_model.training import EpochReport, Training


class FitResult(NamedTuple):
    """What `fit` returns: the adapter and one report an epoch."""

    adapter: CSRAdapter
    history: list[EpochReport]


def fit(
    x: "np.ndarray[Any, Any]",
    labels: "np.ndarray[Any, Any] | None" = None,
    config: CSRConfig | None = None,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FitResult:
    """Train a CSR adapter on embeddings and return it.

    Args:
        x: [n, d], any real dtype; may be memory-mapped.
        labels: [n] class labels; codes of one label are pulled together.
        config: All settings; by default `CSRConfig.automatic` for these data.
        seed: Replaces the configuration's seed.
        device: Where to train.
        on_epoch: Called after each epoch, for progress.

    Raises:
        InvalidVector, InvalidTrainingData, InvalidConfig: The data or settings cannot be used.
        TrainingDiverged: The loss became NaN or infinite.
    """
    x = np.asanyarray(x)
    if config is None:
        rows, input_dim = x.shape if x.ndim == 2 else (len(x), 1)  # Training refuses other shapes by name
        config = CSRConfig.automatic(input_dim, rows)
    if seed is not None:
        config = dataclasses.replace(config, seed=seed)
    training = Training(config, x, labels, device=device)
    while not training.done:
        report = training.run_epoch()
        if on_epoch is not None:
            on_epoch(report)
    return FitResult(training.adapter(), training.history)
