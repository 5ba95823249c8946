"""Pulls codes of one label together: SpSCL (CSRv2, arXiv 2602.05735), the sum inside the logarithm."""

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_model.codes import Codes
from csr_model.collectives import gather_rows, rank, sum_over_ranks, world_size


def contrastive_loss(codes: Codes[Tensor], labels: Tensor, hidden_dim: int, temperature: float) -> Tensor:
    """Return −mean_i log[Σ_{p∈P(i)} e^{cos(z_i,z_p)/τ} / Σ_{j≠i} e^{cos(z_i,z_j)/τ}], a scalar.

    P(i) are the other rows, of all ranks, with the label of row i; a row never meets itself. Rows
    without positives are left out, and a batch without any gives 0: training refuses labels that
    cannot form a pair, see `csr_model.training`.

    Args:
        codes: [n, k].
        labels: [n] int64.
        hidden_dim: h.
        temperature: τ.
    """
    dense = codes.weights.new_zeros(len(labels), hidden_dim).scatter_add(1, codes.latents, codes.weights)
    unit = F.normalize(dense, dim=1, eps=1e-8)
    everyone, everyones_labels = gather_rows(unit), gather_rows(labels)
    logits = unit @ everyone.T / temperature
    own = rank() * len(labels) + torch.arange(len(labels), device=labels.device)
    itself = own[:, None] == torch.arange(len(everyone), device=labels.device)
    positive = (labels[:, None] == everyones_labels) & ~itself
    anchor = positive.any(1)
    # A large finite mask, not −inf: rows without positives must not turn gradients into NaN.
    masked = torch.finfo(logits.dtype).min / 2
    losses = torch.logsumexp(logits.masked_fill(itself, masked), 1) - torch.logsumexp(
        logits.masked_fill(~positive, masked), 1
    )
    anchors = sum_over_ranks(anchor.sum()).clamp(min=1)
    return world_size() * losses.where(anchor, 0).sum() / anchors
