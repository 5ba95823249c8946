"""Train an adapter in this process, from arrays in memory or memory-mapped."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from csr_model.adapter import CSRAdapter
from csr_model.batches import Pairs
from csr_model.config import CSRConfig
from csr_model.epoch_report import EpochReport
from csr_model.errors import InvalidTrainingData
from csr_model.recipe import Choice, choose
from csr_model.training import Training

Array = np.ndarray[Any, Any]

log = logging.getLogger("csr_model")


class FitResult(NamedTuple):
    """What `fit` returns: the adapter, one report an epoch, and what the recipe chose (None with a configuration)."""

    adapter: CSRAdapter
    history: list[EpochReport]
    choice: Choice | None


def fit(
    x: Array,
    labels: Array | None = None,
    pairs: tuple[Array, Array] | None = None,
    config: CSRConfig | None = None,
    seed: int | None = None,
    ids: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FitResult:
    """Train a CSR adapter on embeddings and return it.

    Args:
        x: [n, d], any real dtype; may be memory-mapped, and stays so unless pairs are embeddings.
        labels: [n] class labels; codes of one label are pulled together, if the configuration says so.
        pairs: (queries, documents) that belong together, m each: rows of x as integers [m], or embeddings
            [m, d], which are then learned from like the rows of x.
        config: All settings; by default `csr_model.recipe` chooses them, which may train short candidates.
        seed: Replaces the configuration's seed; by default 0.
        ids: [n] names of the rows of x, which decide what the recipe holds out; by default their numbers.
        device: Where to train.
        on_epoch: Called after each epoch, for progress.

    Raises:
        InvalidVector, InvalidTrainingData, InvalidConfig: The data or settings cannot be used.
        TrainingDiverged: The loss became NaN or infinite.
    """
    x = np.asanyarray(x)
    if x.ndim != 2:
        raise InvalidTrainingData(f"embeddings have shape {x.shape}; they must be [n, d] with n ≥ 2")
    if ids is not None and len(ids) != len(x):
        raise InvalidTrainingData(f"there are {len(ids)} ids and {len(x)} rows; every row needs one")
    rows = None
    if pairs is not None:
        x, labels, ids, rows = _with_pairs(x, labels, ids, pairs)
    choice = None
    if config is None:
        choice = choose(x, labels, rows, ids, device, chosen={} if seed is None else {"seed": seed})
        config = choice.config
    elif seed is not None:
        config = dataclasses.replace(config, seed=seed)
    for name, given, learned in (("labels", labels, config.learns_labels), ("pairs", rows, config.learns_pairs)):
        if given is not None and not learned:
            log.warning("%s are given, but no gamma_%s nor linear_map of the configuration learns them", name, name)
    training = Training(config, x, labels, rows, device)
    while not training.done:
        report = training.run_epoch()
        if on_epoch is not None:
            on_epoch(report)
    return FitResult(training.adapter(), training.history, choice)


def _with_pairs(
    x: Array, labels: Array | None, ids: Sequence[str] | None, pairs: tuple[Array, Array]
) -> tuple[Array, Array | None, Sequence[str] | None, Pairs]:
    """Return x with the pairs' embeddings behind its rows, and the pairs as row numbers."""
    if len(pairs) != 2:
        raise InvalidTrainingData(f"pairs have {len(pairs)} parts; they must be (queries, documents)")
    sides = [np.asanyarray(side) for side in pairs]
    found: list[Array] = []
    for name, side in zip(Pairs._fields, sides, strict=True):
        if side.ndim == 1 and side.dtype.kind in "iu":
            found.append(side)
            continue
        if side.ndim != 2 or side.shape[1] != x.shape[1]:
            raise InvalidTrainingData(
                f"pairs.{name} have shape {side.shape} and dtype {side.dtype}; they must be rows of x as "
                f"integers [m], or embeddings [m, {x.shape[1]}] like x and the other side"
            )
        if labels is not None:
            raise InvalidTrainingData(f"pairs.{name} are embeddings, which have no labels; pass rows of x")
        found.append(np.arange(len(x), len(x) + len(side)))
        ids = None if ids is None else [*ids, *(f"{name}-{row}" for row in range(len(side)))]
        x = np.concatenate([x, side])
    if len(found[0]) != len(found[1]):
        raise InvalidTrainingData(
            f"there are {len(found[0])} queries and {len(found[1])} documents; pairs need as many"
        )
    return x, labels, ids, Pairs(*found)
