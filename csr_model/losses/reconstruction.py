"""L(k) + L(4k)/8 for every level at once (Wen et al. 2025, eq. 4; several levels are an addition)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_OF_4K = 1 / 8


def reconstruction_weights(levels: Sequence[int], decode_ks: Sequence[int]) -> list[float]:
    """Return what each decoded k counts: 1 as a level and 1/8 as four times one, over the number of levels.

    4k is clamped to the largest decoded k.
    """
    weights = dict.fromkeys(decode_ks, 0.0)
    for k in levels:
        weights[k] += 1 / len(levels)
        weights[min(4 * k, decode_ks[-1])] += WEIGHT_OF_4K / len(levels)
    return list(weights.values())


def reconstruction_loss(preprocessed: Tensor, reconstructions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted sum over k of the normalised squared error, a scalar.

    Preprocessing gave the training set variance 1, a fixed number, so the mean squared distance is the
    share of variance missed: free of scale and dimension, and its mean over ranks is that of all rows.

    Args:
        preprocessed: x' [n, d].
        reconstructions: x̂ [n, d] for each of the m decoded k.
        weights: m numbers.
    """
    errors = [
        weight * F.mse_loss(restored, preprocessed, reduction="sum")
        for weight, restored in zip(weights, reconstructions, strict=True)
    ]
    return torch.stack(errors).sum() / len(preprocessed)
