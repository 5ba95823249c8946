"""The published objective with the values of the authors' code: L = L(k) + L(4k)/8 + β·L_aux + γ·L_cl for one k.

Wen et al. 2025 (arXiv 2503.01776, equations 2 to 7). Where text and code differ, the code's values are taken: squared
errors are means over rows and dimensions (the text sums over dimensions); the auxiliary target is normalised by its
variance in the batch; the contrast is on cosines with τ = 0.2 and sees every row twice (the text: dot products, no
temperature, once). Its only positive of a row is the row itself, so that it does nothing but repel.

What makes the published losses what they are is kept: the auxiliary prediction contains the pre-bias, which therefore
learns from it even while nothing is dead, and firing among the first 4k keeps a latent alive. Faults of the authors'
code are not: there the mask of live latents changes the pre-activations of later passes, encoding counts as training,
rows at equal places on two ranks are taken for each other, and a batch of one row gives an infinite loss.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes
from csr_model.collectives import sum_over_ranks, world_size
from csr_model.config import CSRConfig
from csr_model.losses.csr import Batch, Losses
from csr_model.losses.reconstruction import WEIGHT_OF_4K
from csr_model.losses.similarities import MASKED, cosines, gather_codes, is_own
from csr_model.topk import top_k

_COPIES = 2


class PaperLoss(nn.Module):
    """Computes the published losses of a batch.

    Args:
        autoencoder: The model to train; its gains are frozen, the published decoder has none.
        config: Of one level, see `CSRConfig.paper`.
    """

    def __init__(self, autoencoder: CSRAutoencoder, config: CSRConfig) -> None:
        super().__init__()
        autoencoder.log_gain.requires_grad_(False)
        self.autoencoder = autoencoder
        self.config = config
        self.dtype = torch.bfloat16 if config.precision == "bfloat16" else None

    def forward(self, batch: Batch, dead: Tensor | None, progress: float = 0.0) -> Losses:
        """Return the losses of a batch, and the codes at 4k for counting which latents fired.

        Args:
            batch: Its embeddings; no published loss looks at labels or pairs.
            dead: [h] bool, or None if no latent is dead.
            progress: Not looked at: nothing is annealed.
        """
        config, model = self.config, self.autoencoder
        preprocessed = model.preprocess(batch.embeddings)
        pre_activations = model.pre_activations(preprocessed)
        wide = top_k(pre_activations, config.decode_ks[-1])
        narrow = Codes(wide.latents[:, : config.k_max], wide.weights[:, : config.k_max])
        explained = model.decode(narrow)
        at_k = published_reconstruction(preprocessed, explained + model.pre_bias)
        at_4k = published_reconstruction(preprocessed, model.decode(wide) + model.pre_bias)
        reconstruction = at_k + WEIGHT_OF_4K * at_4k
        auxiliary = contrastive = torch.zeros_like(reconstruction)
        if config.beta and config.k_aux:
            revived = _revived(model, pre_activations, dead, config.k_aux)
            auxiliary = published_auxiliary(revived + model.pre_bias, preprocessed - explained)
        if config.gamma_self:
            similarities = cosines(narrow, gather_codes(narrow), model.hidden_dim, self.dtype)
            contrastive = published_contrastive(similarities, config.temperature_self, _COPIES)
        total = reconstruction + config.beta * auxiliary + config.gamma_self * contrastive
        parts = (reconstruction.detach(), auxiliary.detach(), contrastive.detach())
        return Losses(total, *parts, wide.latents, wide.weights.detach())


def published_autoencoder(config: CSRConfig) -> CSRAutoencoder:
    """Return a model before training: W as `nn.Linear` starts, U(±1/√d), and biases 0; embeddings are not centred."""
    model = CSRAutoencoder(config.input_dim, config.hidden_dim, config.decode_ks, config.normalize)
    bound = config.input_dim**-0.5
    with torch.no_grad():
        model.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(config.seed))
    return model


def published_reconstruction(inputs: Tensor, reconstructions: Tensor) -> Tensor:
    """Return mean (x − x̂)² over rows and dimensions: 1/d of the text's L(k) = ‖x − x̂_k‖²."""
    return F.mse_loss(reconstructions, inputs)


def published_auxiliary(predictions: Tensor, missed: Tensor) -> Tensor:
    """Return mean (ê − e)² / mean (e − ē)², ē the batch mean, over all ranks; in a batch of equal rows mean (ê − e)².

    Args:
        predictions: ê = Wᵀ z_aux + b_pre [n, d].
        missed: e = x − Wᵀ z_k [n, d], the target; no gradient flows through it.
    """
    missed = missed.detach()
    rows = len(missed) * world_size()
    mean = sum_over_ranks(missed.sum(0)) / rows
    energy = sum_over_ranks((missed - mean).square().sum())
    size = sum_over_ranks(missed.square().sum())
    negligible = energy <= torch.finfo(missed.dtype).eps ** 2 * size  # of equal rows only rounding is left
    energy = torch.where(negligible, torch.full_like(energy, rows * missed.shape[1]), energy)
    return world_size() * (predictions - missed).square().sum() / energy


def published_contrastive(similarities: Tensor, temperature: float = 1.0, copies: int = 1) -> Tensor:
    """Return mean_i −log[e^{s_ii/τ} / (e^{s_ii/τ} + c·Σ_{j≠i} e^{s_ij/τ})]; 0 for a single row.

    With dot products, τ = 1 and c = 1 this is the text's equation 6; with cosines, τ = 0.2 and c = 2 the value of the
    authors' code, log(1 + 2·Σ_{j≠i} e^{(cos_ij − 1)/τ}).

    Args:
        similarities: s [n, m], of this rank's rows with all ranks' rows.
        temperature: τ.
        copies: c, how often every other row is met.
    """
    itself = is_own(len(similarities), similarities.device)
    own = similarities[itself][:, None]
    logits = ((similarities - own) / temperature).masked_fill(itself, MASKED)
    return F.softplus(torch.logsumexp(logits, 1) + math.log(copies)).mean()


def _revived(model: CSRAutoencoder, pre_activations: Tensor, dead: Tensor | None, k_aux: int) -> Tensor:
    """Return Wᵀ z_aux [n, d]; zeros while nothing is dead.

    The authors multiply live pre-activations by 0. Behind the ReLU −inf selects the same, as neither a live latent nor
    a negative dead one contributes.
    """
    if dead is None:
        return torch.zeros(len(pre_activations), model.input_dim, device=pre_activations.device)
    return model.decode(top_k(pre_activations.masked_fill(~dead, -torch.inf), k_aux))
