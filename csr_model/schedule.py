"""How the learning rate moves through a run."""

import torch

_WARMUP_SHARE = 0.05
_DECAY_SHARE = 0.2


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: up over the first 5 % of the steps, down over the last 20 %."""
    return min(1.0, (step + 1) / (_WARMUP_SHARE * steps), (steps - step) / (_DECAY_SHARE * steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step use `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
