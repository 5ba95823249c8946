"""The objective L = Σ_k [L(k) + L(4k)/8] / |levels| + β·L_aux + γ·L_cl, one part a module."""

from csr_model.losses.auxiliary import auxiliary_loss
from csr_model.losses.contrastive import contrastive_loss
from csr_model.losses.csr import CSRLoss, Losses
from csr_model.losses.reconstruction import reconstruction_loss, reconstruction_weights

__all__ = [
    "CSRLoss",
    "Losses",
    "auxiliary_loss",
    "contrastive_loss",
    "reconstruction_loss",
    "reconstruction_weights",
]
