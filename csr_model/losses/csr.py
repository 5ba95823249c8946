"""The whole objective as one module, so that a DistributedDataParallel wrapper sees every parameter.

    L = Σ_k [L(k) + L(4k)/8] / |levels| + β·L_aux + γ_labels·L_labels + γ_pairs·L_pairs + γ_neighbours·L_neighbours

with each contrast averaged over the levels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes
from csr_model.collectives import gather_rows
from csr_model.config import CSRConfig, decoded_ks
from csr_model.errors import InvalidTrainingData
from csr_model.losses.auxiliary import auxiliary_loss
from csr_model.losses.contrastive import label_loss, neighbour_loss, pair_loss
from csr_model.losses.reconstruction import reconstruction_loss, reconstruction_weights
from csr_model.losses.similarities import cosines, gather_codes
from csr_model.topk import top_k

_ALIKE = 0.95
_EQUAL = 1 - 1e-6
_ANNEALING_SHARE = 0.7


class Batch(NamedTuple):
    """This rank's rows of one step.

    Attributes:
        embeddings: Raw rows [n, d] that passed `checked_rows`: `pairs` queries, their documents, then others.
        labels: [n] int64, or None.
        pairs: Number of pairs at the front.
        dropout: Factors [n, d] for what is encoded, or None; similarities of embeddings use whole rows.
    """

    embeddings: Tensor
    labels: Tensor | None
    pairs: int
    dropout: Tensor | None = None


class Losses(NamedTuple):
    """Scalars of one batch, and its codes for counting; only `total` carries gradient on."""

    total: Tensor
    reconstruction: Tensor
    auxiliary: Tensor
    contrastive: Tensor
    latents: Tensor
    weights: Tensor


class CSRLoss(nn.Module):
    """Computes all losses of a batch from one encoding at the largest decoded k.

    Args:
        autoencoder: The model to train.
        config: Levels and loss weights.
    """

    def __init__(self, autoencoder: CSRAutoencoder, config: CSRConfig) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.config = config
        self.dtype = torch.bfloat16 if config.precision == "bfloat16" else None
        if config.gamma_neighbours:
            self.log_factors = nn.Parameter(torch.zeros(len(config.levels)))

    def forward(self, batch: Batch, dead: Tensor | None, progress: float) -> Losses:
        """Return the losses of a batch.

        Args:
            batch: Embeddings with what is known of them.
            dead: [h] bool, or None if no latent is dead.
            progress: Share of the run's steps that are done, 0 … 1; decides annealed levels.

        Raises:
            InvalidTrainingData: A weight needs labels or pairs that the batch has not.
        """
        config, model = self.config, self.autoencoder
        levels = annealed_levels(config.levels, config.anneal_from, progress)
        ks = decoded_ks(levels, config.hidden_dim)
        seen = batch.embeddings if batch.dropout is None else batch.embeddings * batch.dropout
        preprocessed = model.preprocess(seen)
        pre_activations = model.pre_activations(preprocessed)
        codes = top_k(pre_activations, ks[-1])
        reconstructions = model.reconstruct(codes, ks, self.dtype)
        reconstruction = reconstruction_loss(preprocessed, reconstructions, reconstruction_weights(levels, ks))
        auxiliary = torch.zeros_like(reconstruction)
        if dead is not None and config.k_aux and config.beta:
            residual = preprocessed - reconstructions[ks.index(levels[-1])]
            auxiliary = auxiliary_loss(pre_activations, dead, residual, model.decode, config.k_aux)
        contrastive = self._contrastive(batch, codes, levels)
        total = reconstruction + config.beta * auxiliary + contrastive
        stored = Codes(codes.latents[:, : config.k_max], codes.weights[:, : config.k_max].detach())
        return Losses(total, reconstruction.detach(), auxiliary.detach(), contrastive.detach(), *stored)

    def _contrastive(self, batch: Batch, codes: Codes[Tensor], levels: tuple[int, ...]) -> Tensor:
        """Return the sum of the contrasts in use, each times its weight."""
        config = self.config
        loss = codes.weights.new_zeros(())
        if config.gamma_labels:
            loss = loss + config.gamma_labels * self._label_contrast(batch, codes, levels)
        if config.gamma_pairs:
            loss = loss + config.gamma_pairs * self._pair_contrast(batch, codes, levels)
        if config.gamma_neighbours:
            loss = loss + config.gamma_neighbours * self._neighbour_contrast(batch, codes, levels)
        return loss

    def _label_contrast(self, batch: Batch, codes: Codes[Tensor], levels: tuple[int, ...]) -> Tensor:
        labels = batch.labels
        if labels is None:
            raise InvalidTrainingData("gamma_labels is above 0 but there are no labels; pass labels or set it to 0")
        everyone, everyones_labels = gather_codes(codes), gather_rows(labels)
        losses = [
            label_loss(self._cosines(codes, everyone, k), labels, everyones_labels, self.config.temperature_labels)
            for k in levels
        ]
        return torch.stack(losses).mean()

    def _pair_contrast(self, batch: Batch, codes: Codes[Tensor], levels: tuple[int, ...]) -> Tensor:
        count = batch.pairs
        if not count:
            raise InvalidTrainingData("gamma_pairs is above 0 but there are no pairs; pass pairs or set it to 0")
        queries = Codes(codes.latents[:count], codes.weights[:count])
        documents = Codes(codes.latents[count : 2 * count], codes.weights[count : 2 * count])
        all_queries, all_documents = gather_codes(queries), gather_codes(documents)
        same_query, same_document = alike_sides(batch)
        losses = [
            pair_loss(
                self._cosines(queries, all_documents, k),
                self._cosines(documents, all_queries, k),
                same_document,
                same_query,
                self.config.temperature_pairs,
            )
            for k in levels
        ]
        return torch.stack(losses).mean()

    def _neighbour_contrast(self, batch: Batch, codes: Codes[Tensor], levels: tuple[int, ...]) -> Tensor:
        first = 2 * batch.pairs
        others = Codes(codes.latents[first:], codes.weights[first:])
        everyone = gather_codes(others)
        dense = dense_cosines(batch.embeddings[first:])
        losses = [
            neighbour_loss(self._cosines(others, everyone, k), dense, factor, self.config.temperature_neighbours)
            for k, factor in zip(levels, self.log_factors, strict=True)
        ]
        return torch.stack(losses).mean()

    def _cosines(self, left: Codes[Tensor], right: Codes[Tensor], k: int) -> Tensor:
        left = Codes(left.latents[:, :k], left.weights[:, :k])
        right = Codes(right.latents[:, :k], right.weights[:, :k])
        return cosines(left, right, self.autoencoder.hidden_dim, self.dtype)


def annealed_levels(levels: tuple[int, ...], start: int, progress: float) -> tuple[int, ...]:
    """Return the k to train now: those below `start` fall from it to themselves over 70 % of the run.

    (1 − p)·start + p·k, rounded, with p the share of those 70 % that is done (CSRv2's schedule).
    """
    share = min(1.0, progress / _ANNEALING_SHARE)
    return tuple(max(k, round((1 - share) * start + share * k)) for k in levels)


def alike_sides(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return, for queries and for documents of the pairs, [p, p · ranks] bool: nearly equal embeddings.

    They are not told apart by the contrast: a false negative would be pushed away from its positive. What all rows of
    a side share is taken away first, or it would make them all alike.
    """
    count = batch.pairs
    queries, documents = batch.embeddings[:count], batch.embeddings[count : 2 * count]
    return _alike(queries), _alike(documents)


def dense_cosines(rows: Tensor) -> Tensor:
    """Return [n, n · ranks] cosines of this rank's embeddings with all ranks', without gradient."""
    unit = F.normalize(rows.detach(), dim=1)
    return unit @ gather_rows(unit).T


def _alike(rows: Tensor) -> Tensor:
    unit = F.normalize(rows.detach(), dim=1)
    everyone = gather_rows(unit)
    mean = everyone.mean(0)
    centred = F.normalize(unit - mean, dim=1) @ F.normalize(everyone - mean, dim=1).T
    return (centred > _ALIKE) | (unit @ everyone.T > _EQUAL)
