"""What one epoch of training came to."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochReport:
    """Means over the steps and ranks of one epoch.

    Attributes:
        epoch: From 0.
        step: Optimizer steps done since the run began.
        total: The whole objective; the next three are its unweighted parts.
        gradient_norm: Before clipping.
        dead_share: Share of latents that are dead at the end of the epoch, 0 … 1.
        learning_rate: Of the last step.
        rows_per_second: Over all ranks; not part of equality.
    """

    epoch: int
    step: int
    total: float
    reconstruction: float
    auxiliary: float
    contrastive: float
    gradient_norm: float
    dead_share: float
    learning_rate: float
    rows_per_second: float = field(compare=False)
