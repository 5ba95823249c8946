"""The whole objective as one module, so that a DistributedDataParallel wrapper sees every parameter."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes
from csr_model.config import CSRConfig
from csr_model.errors import InvalidTrainingData
from csr_model.losses.auxiliary import auxiliary_loss
from csr_model.losses.contrastive import contrastive_loss
from csr_model.losses.reconstruction import reconstruction_loss, reconstruction_weights
from csr_model.topk import top_k


class Losses(NamedTuple):
    """Scalars of one batch, and its codes at k_max for counting; only `total` carries gradient on."""

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

    loss_weights: Tensor

    def __init__(self, autoencoder: CSRAutoencoder, config: CSRConfig) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.config = config
        weights = reconstruction_weights(config.levels, config.decode_ks)
        self.register_buffer("loss_weights", torch.tensor(weights), persistent=False)

    def forward(self, embeddings: Tensor, dead: Tensor | None, labels: Tensor | None) -> Losses:
        """Return the losses of raw embeddings [n, d].

        Args:
            embeddings: Rows that passed `checked_rows`.
            dead: [h] bool, or None if no latent is dead.
            labels: [n] int64; needed when gamma is above 0.

        Raises:
            InvalidTrainingData: gamma is above 0 and labels are missing.
        """
        config, model = self.config, self.autoencoder
        preprocessed = model.preprocess(embeddings)
        pre_activations = model.pre_activations(preprocessed)
        codes = top_k(pre_activations, config.decode_ks[-1])
        reconstructions = model.reconstruct(codes)
        reconstruction = reconstruction_loss(preprocessed, reconstructions, self.loss_weights)
        auxiliary = contrastive = torch.zeros_like(reconstruction)
        if dead is not None and config.k_aux and config.beta:
            residual = preprocessed - reconstructions[:, config.decode_ks.index(config.k_max)]
            auxiliary = auxiliary_loss(pre_activations, dead, residual, model.decode, config.k_aux)
        if config.gamma:
            contrastive = self._contrastive(codes, labels)
        total = reconstruction + config.beta * auxiliary + config.gamma * contrastive
        stored = Codes(codes.latents[:, : config.k_max], codes.weights[:, : config.k_max].detach())
        return Losses(total, reconstruction.detach(), auxiliary.detach(), contrastive.detach(), *stored)

    def _contrastive(self, codes: Codes[Tensor], labels: Tensor | None) -> Tensor:
        if labels is None:
            raise InvalidTrainingData(f"gamma is {self.config.gamma} but there are no labels; set gamma to 0")
        hidden_dim, temperature = self.autoencoder.hidden_dim, self.config.temperature
        losses = [
            contrastive_loss(Codes(codes.latents[:, :k], codes.weights[:, :k]), labels, hidden_dim, temperature)
            for k in self.config.levels
        ]
        return torch.stack(losses).mean()
