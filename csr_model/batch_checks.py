"""Whether a configuration's batches suit the data and the ranks, and hold anything to contrast."""

import logging
from typing import Any

import numpy as np

from csr_model.batches import steps_per_epoch
from csr_model.collectives import rank, world_size
from csr_model.config import CSRConfig
from csr_model.errors import InvalidConfig, InvalidTrainingData

_POSITIVES_PER_EPOCH = 10

log = logging.getLogger("csr_model")


def check_batches(config: CSRConfig, rows: int, input_dim: int) -> None:
    """Refuse batches that cannot be filled or divided among the ranks, and warn of too many latents.

    Raises:
        InvalidConfig: Batch size and ranks or dimensions disagree.
        InvalidTrainingData: Fewer rows than a batch.
    """
    if input_dim != config.input_dim:
        raise InvalidConfig(f"input_dim is {config.input_dim} but the embeddings have {input_dim} values a row")
    if rows < config.batch_size:
        raise InvalidTrainingData(f"{rows} rows do not fill a batch of {config.batch_size}; lower batch_size")
    unit = world_size() * config.batch_unit
    if config.batch_size % unit:
        raise InvalidConfig(f"batch_size is {config.batch_size}; it must be a multiple of {unit} for these ranks")
    if 2 * config.hidden_dim > rows and rank() == 0:
        log.warning(
            "hidden_dim is %d for %d rows; above half the rows, some get a latent of their own", config.hidden_dim, rows
        )


def check_contrasts(config: CSRConfig, labels: "np.ndarray[Any, Any] | None") -> None:
    """Refuse batches that would seldom hold anything to contrast.

    Args:
        config: Its batches.
        labels: [n] int64 class numbers, where they are learned.

    Raises:
        InvalidConfig: The batch is too small for a contrast of pairs or of rows.
        InvalidTrainingData: An epoch would on average hold fewer than 10 rows with another of their label in the batch.
    """
    size = config.batch_size
    if config.gamma_pairs and size < 8:
        raise InvalidConfig(f"batch_size is {size}; a quarter of it are pairs, and a contrast needs two: at least 8")
    if config.gamma_self and size < 2:
        raise InvalidConfig(f"batch_size is {size}; a contrast needs at least 2 rows")
    if labels is None:
        return
    rows, counts = len(labels), np.bincount(labels)
    met = size * (size - 1) / (rows * (rows - 1)) * float((counts * (counts - 1)).sum())
    if met * steps_per_epoch(rows, size) < _POSITIVES_PER_EPOCH:
        raise InvalidTrainingData(
            f"a row and another of its label meet {met:.2g} times in a batch of {size}, on average; raise batch_size "
            f"or leave the labels out"
        )
