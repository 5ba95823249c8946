"""The untrained adapter: random training rows as latents. What training adds is measured from here."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from csr_model.adapter import CSRAdapter, adapter_from_training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.config import CSRConfig
from csr_model.embeddings import checked_rows, spread_rows, summarize
from csr_model.errors import InvalidTrainingData

_USAGE_ROWS = 65_536


def random_atoms(x: "np.ndarray[Any, Any]", config: CSRConfig) -> CSRAdapter:
    """Return an adapter whose latents are h distinct training rows, centred and scaled to unit length; biases are 0.

    Args:
        x: [n, d] float32, n ≥ h.
        config: Dimensions, levels and seed; nothing else is used.

    Raises:
        InvalidVector: A row is not finite or has no direction.
        InvalidTrainingData: There are fewer rows than latents, or all rows are alike.
    """
    if len(x) < config.hidden_dim:
        raise InvalidTrainingData(f"{len(x)} rows cannot be {config.hidden_dim} latents; lower hidden_dim")
    summary = summarize(x, config.normalize)
    model = CSRAutoencoder(config.input_dim, config.hidden_dim, config.decode_ks, config.normalize)
    chosen = np.random.default_rng(config.seed).choice(len(x), config.hidden_dim, replace=False)
    with torch.no_grad():
        model.mean.copy_(summary.mean)
        model.scale.fill_(summary.variance**-0.5)
        atoms = model.preprocess(checked_rows(x[np.sort(chosen)], config.input_dim))
        model.weight.copy_(F.normalize(atoms, dim=1))
    sample = checked_rows(x[spread_rows(len(x), _USAGE_ROWS)], config.input_dim)
    return adapter_from_training(model, config, sample, {"digest": summary.digest, "rows": summary.rows})
