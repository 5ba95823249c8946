"""One optimizer step, without any framework."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from csr_model.codes import Codes
from csr_model.dead_latents import DeadLatents
from csr_model.losses import Losses


class StepResult(NamedTuple):
    """Scalar tensors of this rank, left on the device so that no step waits for the host."""

    total: Tensor
    reconstruction: Tensor
    auxiliary: Tensor
    contrastive: Tensor
    gradient_norm: Tensor


def train_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    dead_latents: DeadLatents,
    embeddings: Tensor,
    labels: Tensor | None,
    gradient_clip: float,
) -> StepResult:
    """Update the model once from one batch and count which latents fired.

    Args:
        objective: A `CSRLoss`, or DistributedDataParallel around one.
        optimizer: Over the objective's parameters.
        dead_latents: Advanced by this batch.
        embeddings: This rank's rows [n, d] on the model's device.
        labels: [n] int64, or None.
        gradient_clip: Largest gradient norm.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: Losses = objective(embeddings, dead_latents.mask(), labels)
    losses.total.backward()  # type: ignore[no-untyped-call]
    gradient_norm = nn.utils.clip_grad_norm_(objective.parameters(), gradient_clip)
    optimizer.step()
    dead_latents.advance(Codes(losses.latents, losses.weights))
    return StepResult(losses.total.detach(), losses.reconstruction, losses.auxiliary, losses.contrastive, gradient_norm)
