"""The training objective, one file a part."""

from csr_model.losses.csr import Batch, CSRLoss, Losses

__all__ = ["Batch", "CSRLoss", "Losses"]
