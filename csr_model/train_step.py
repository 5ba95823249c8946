"""One optimizer step, without any framework."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from csr_model.codes import Codes
from csr_model.dead_latents import DeadLatents
from csr_model.losses import Batch, Losses


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
    batch: Batch,
    progress: float,
    gradient_clip: float | None,
) -> StepResult:
    """Update the model once from one batch and count which latents fired.

    Args:
        objective: A `CSRLoss` or `PaperLoss`, or DistributedDataParallel around one.
        optimizer: Over the objective's parameters.
        dead_latents: Advanced by this batch.
        batch: This rank's rows, on the model's device.
        progress: Share of the run's steps that are done, 0 … 1.
        gradient_clip: Largest gradient norm; None does not clip.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: Losses = objective(batch, dead_latents.mask(), progress)
    losses.total.backward()  # type: ignore[no-untyped-call]
    limit = math.inf if gradient_clip is None else gradient_clip
    gradient_norm = nn.utils.clip_grad_norm_(objective.parameters(), limit)
    optimizer.step()
    dead_latents.advance(Codes(losses.latents, losses.weights))
    return StepResult(losses.total.detach(), losses.reconstruction, losses.auxiliary, losses.contrastive, gradient_norm)
