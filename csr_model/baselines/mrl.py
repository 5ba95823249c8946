"""The Matryoshka baseline: one linear map of frozen embeddings whose every prefix is trained to be an embedding.

Kusupati et al. 2022 (arXiv 2205.13147), on frozen features and with the contrasts of the sparse adapter: labels, else
pairs, else the dense similarities of nearest neighbours. Starts as PCA.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.baselines.pca import PCA
from csr_model.batches import Pairs, Sampler
from csr_model.embeddings import checked_rows
from csr_model.losses import Batch
from csr_model.losses.contrastive import label_loss, neighbour_loss, pair_loss
from csr_model.losses.csr import alike_sides, dense_cosines
from csr_model.neighbours import mine_neighbours
from csr_model.schedule import learning_rate_factor, set_learning_rate

Array = np.ndarray[Any, Any]

DIMS = (4, 8, 16, 32, 64, 128)

_TEMPERATURE_LABELS = 0.1
_TEMPERATURE_PAIRS = 0.05
_TEMPERATURE_NEIGHBOURS = 0.05


class MRLHead(NamedTuple):
    """A trained map.

    Attributes:
        mean: [d] float32, subtracted from unit-length embeddings.
        weight: [m, d].
        bias: [m].
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def transform(self, x: Array) -> Array:
        """Return [n, m] float32; the first j columns are the embedding of j dimensions, to compare by cosine.

        Raises:
            InvalidVector: A row is not finite or has no direction.
        """
        rows = F.normalize(checked_rows(x, len(self.mean)), dim=1)
        return F.linear(rows - self.mean, self.weight, self.bias).numpy()


def fit_mrl(
    x: Array,
    labels: Array | None = None,
    pairs: Pairs | None = None,
    dims: tuple[int, ...] = DIMS,
    learning_rate: float = 1e-3,
    rows_to_see: int = 128_000,
    batch_size: int = 256,
    seed: int = 0,
) -> MRLHead:
    """Train the map; the loss is the mean over `dims`.

    Args:
        x: [n, d] embeddings, n ≥ batch_size.
        labels: [n] int64; learned if given.
        pairs: Rows of x that belong together; learned if given without labels. With neither, dense neighbours are.
        dims: Ascending, at most d; every prefix that is trained.
        learning_rate: Adam's peak rate, up over the first 5 % of the steps and down over the last 20 %.
        rows_to_see: Decides the number of steps.
        batch_size: Rows of a step; half as many pairs.
        seed: Decides the batches.

    Raises:
        InvalidVector: A row is not finite or has no direction.
        InvalidTrainingData: dims do not fit the embeddings.
    """
    objective = _Objective(PCA.fit(x, max(dims)), dims)
    optimizer = torch.optim.Adam(objective.parameters(), lr=learning_rate)
    sampler = _sampler(x, labels, pairs, batch_size, seed)
    steps = math.ceil(rows_to_see / batch_size)
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate * learning_rate_factor(step, steps))
        chosen = sampler.step(step)
        rows = F.normalize(checked_rows(x[chosen.rows], x.shape[1]), dim=1)
        known = None if labels is None else torch.from_numpy(labels[chosen.rows])
        optimizer.zero_grad()
        objective(Batch(rows, known, chosen.pairs)).backward()
        optimizer.step()
    return MRLHead(objective.mean, objective.weight.detach(), objective.bias.detach())


class _Objective(nn.Module):
    """The contrast of a batch at every prefix; embeddings of unit length in, a scalar out."""

    mean: Tensor

    def __init__(self, start: PCA, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims
        self.register_buffer("mean", torch.from_numpy(start.mean))
        self.weight = nn.Parameter(torch.from_numpy(start.components))
        self.bias = nn.Parameter(torch.zeros(max(dims)))
        self.log_factors = nn.Parameter(torch.zeros(len(dims)))

    def forward(self, batch: Batch) -> Tensor:
        mapped = F.linear(batch.embeddings - self.mean, self.weight, self.bias)
        losses = [
            self._contrast(F.normalize(mapped[:, :dim], dim=1), batch, factor)
            for dim, factor in zip(self.dims, self.log_factors, strict=True)
        ]
        return torch.stack(losses).mean()

    def _contrast(self, unit: Tensor, batch: Batch, log_factor: Tensor) -> Tensor:
        if batch.labels is not None:
            return label_loss(unit @ unit.T, batch.labels, batch.labels, _TEMPERATURE_LABELS)
        if batch.pairs:
            cosines = unit[: batch.pairs] @ unit[batch.pairs :].T
            same_query, same_document = alike_sides(batch)
            return pair_loss(cosines, cosines.T, same_document, same_query, _TEMPERATURE_PAIRS)
        return neighbour_loss(unit @ unit.T, dense_cosines(batch.embeddings), log_factor, _TEMPERATURE_NEIGHBOURS)


def _sampler(x: Array, labels: Array | None, pairs: Pairs | None, batch_size: int, seed: int) -> Sampler:
    if labels is not None:
        return Sampler(len(x), batch_size, seed)
    if pairs is not None:
        return Sampler(len(x), 0, seed, pairs, min(batch_size // 2, len(pairs.queries)))
    return Sampler(len(x), batch_size, seed, neighbours=mine_neighbours(x, seed))
