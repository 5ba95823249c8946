"""Preprocessing folded into weights: what sees raw embeddings and encodes as the adapter does.

    ours      a  = W (s (M u − μ) − b) + c        M, μ, s: linear map, mean and scale of the preprocessing
    folded    a' = W' (u − b') + c'   with   a' = a / s

Both select alike and their codes are equal after L2 normalisation, as s > 0. Without M, decoding with W'ᵀ
is exact too: W'ᵀ z' + b' = (Wᵀ z + b) / s + μ. With M it is not: W' = W M has lost what W alone restores.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import unit_length
from csr_model.embeddings import NORM_MIN
from csr_model.encoding import encode_rows
from csr_model.errors import ExportRefused
from csr_model.topk import top_k


class FoldedWeights(NamedTuple):
    """Weights [h, d], pre_bias [d] and latent_bias [h] of a tied autoencoder without preprocessing; float32."""

    weight: Tensor
    pre_bias: Tensor
    latent_bias: Tensor


def fold(autoencoder: CSRAutoencoder) -> FoldedWeights:
    """Return the folded weights, computed in float64 and rounded once; row normalisation is not part of them.

    Raises:
        ExportRefused: A folded weight is beyond float32.
    """
    weight, offset = autoencoder.weight.double(), autoencoder.pre_bias.double()
    scale = autoencoder.scale.double()
    centre = autoencoder.mean.double() + offset / scale
    latent_bias = autoencoder.latent_bias.double() / scale
    if autoencoder.linear_map is None:
        exact = FoldedWeights(weight, centre, latent_bias)
    else:
        mapped = weight @ autoencoder.linear_map.double()
        exact = FoldedWeights(mapped, torch.zeros_like(centre), latent_bias - weight @ centre)
    folded = FoldedWeights(*(tensor.detach().float().cpu().contiguous() for tensor in exact))
    if not all(bool(tensor.isfinite().all()) for tensor in folded):
        raise ExportRefused(f"scale is {float(scale):.3g}: the folded weights are not finite in float32; retrain")
    return folded


def folded_difference(autoencoder: CSRAutoencoder, folded: FoldedWeights, rows: Tensor, k: int) -> float:
    """Return by how much a weight differs at most between the codes of both, in float32, on the CPU.

    Weights are compared place by place: where two pre-activations tie, either latent may hold a place, with the
    same weight.

    Args:
        autoencoder: On any device.
        folded: Of that autoencoder.
        rows: Embeddings [n, d] float32, n ≥ 1.
        k: 1 … h.
    """
    ours = encode_rows(autoencoder, rows, k, device=torch.device("cpu"))
    rows = F.normalize(rows.cpu(), dim=1, eps=NORM_MIN) if autoencoder.normalize else rows.cpu()
    theirs = unit_length(top_k(F.linear(rows - folded.pre_bias, folded.weight, folded.latent_bias), k))
    return float((ours.weights - theirs.weights).abs().max())
