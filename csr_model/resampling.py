"""Latents that stay dead start again as rows that the others reconstruct badly (research: Bricken et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_model.autoencoder import CSRAutoencoder
from csr_model.collectives import gather_rows


@torch.no_grad()
def resample(
    autoencoder: CSRAutoencoder, optimizer: torch.optim.Optimizer, dead: Tensor, embeddings: Tensor, k: int
) -> Tensor:
    """Give dead latents new directions and return their numbers [m]; at most a quarter as many as there are rows.

    A new latent points at a row with the largest residual, with the live latents' mean norm, no bias, and
    no memory in Adam. Ranks gather their rows first, so all make the same choice.

    Args:
        autoencoder: Changed in place.
        optimizer: Adam over its parameters.
        dead: [h] bool.
        embeddings: This rank's raw rows [n, d] of the step.
        k: Active latents of the reconstruction.
    """
    rows = gather_rows(embeddings)
    preprocessed = autoencoder.preprocess(rows)
    residual = preprocessed - autoencoder.reconstruct(autoencoder.encode(rows, k), (k,))[0]
    latents = dead.nonzero()[:, 0][: len(rows) // 4]
    if not len(latents) or bool(dead.all()):
        return latents[:0]
    worst = residual.norm(dim=1).topk(len(latents)).indices
    norm = autoencoder.weight[~dead].norm(dim=1).mean()
    autoencoder.weight[latents] = norm * F.normalize(preprocessed[worst] - autoencoder.pre_bias, dim=1)
    autoencoder.latent_bias[latents] = 0
    for parameter in (autoencoder.weight, autoencoder.latent_bias):
        for name in ("exp_avg", "exp_avg_sq"):
            if name in optimizer.state[parameter]:
                optimizer.state[parameter][name][latents] = 0
    return latents
