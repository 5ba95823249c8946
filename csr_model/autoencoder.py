"""The tied TopK autoencoder.

    x' = (M x/‖x‖ − mean) · scale                preprocessing, fixed; the linear map M is optional
    a  = W (x' − b_pre) + b_lat                  pre-activations
    z  = ReLU(TopK(a, k))                        code
    x̂  = exp(g_k) · Wᵀ z + b_pre                 reconstruction; the gain g_k exists for the loss only

After Wen et al. 2025 (arXiv 2503.01776, section 3); map, centring, scaling, initial latents from data
and the gain are additions. Nothing here changes in a forward pass: counting is left to `dead_latents`.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.codes import Codes
from csr_model.embeddings import NORM_MIN
from csr_model.topk import top_k

_INITIAL_NOISE = 0.3
_INITIAL_NORM = 0.5


class CSRAutoencoder(nn.Module):
    """W [h, d] serves encoder and decoder; see the module's equations.

    Args:
        input_dim: d.
        hidden_dim: h.
        decode_ks: Ascending; the code sizes that have a gain of their own.
        normalize: Scale embeddings to unit length first.
        mapped: Whether there is a linear map.
    """

    mean: Tensor
    scale: Tensor
    linear_map: Tensor | None
    frozen_bias: Tensor | None

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        decode_ks: tuple[int, ...],
        normalize: bool = True,
        mapped: bool = False,
    ) -> None:
        super().__init__()
        self.decode_ks = decode_ks
        self.normalize = normalize
        self.weight = nn.Parameter(torch.zeros(hidden_dim, input_dim))
        self.pre_bias = nn.Parameter(torch.zeros(input_dim))
        self.latent_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.log_gain = nn.Parameter(torch.zeros(len(decode_ks)))
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))

        self.register_buffer("linear_map", torch.eye(input_dim) if mapped else None)
        self.register_buffer("frozen_bias", None, persistent=False)  # follows the weights from device to device

    @torch.no_grad()
    def start_from_rows(self, rows: Tensor, seed: int) -> None:
        """Let latents start as training rows, plus noise: every one fires from the start.

        Args:
            rows: Any number of training rows [n, d], raw; they are reused when n < h. Preprocessing is set.
            seed: Decides order and noise.
        """
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.weight.shape, generator=random) * _INITIAL_NOISE / self.input_dim**0.5
        chosen = torch.cat([torch.randperm(len(rows), generator=random)] * -(-self.hidden_dim // len(rows)))
        preprocessed = self.preprocess(rows.to(self.weight.device))
        atoms = F.normalize(preprocessed[chosen[: self.hidden_dim].to(rows.device)], dim=1) + noise.to(rows.device)
        self.weight.copy_(_INITIAL_NORM * F.normalize(atoms, dim=1))

    def freeze(self) -> Self:
        """Fix the weights for good and return self: encoding one row then reads W once, not twice."""
        self.eval().requires_grad_(False)
        with _full_precision(self.weight.device.type):
            self.frozen_bias = self._encoding_bias()
        return self

    @property
    def input_dim(self) -> int:
        """Dimension of the embeddings."""
        return self.weight.shape[1]

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return self.weight.shape[0]

    def preprocess(self, embeddings: Tensor) -> Tensor:
        """Return x' [n, d]: of mean 0 and mean squared norm 1 over the training rows."""
        if self.normalize:
            embeddings = F.normalize(embeddings, dim=1, eps=NORM_MIN)
        if self.linear_map is not None:
            with _full_precision(embeddings.device.type):
                embeddings = F.linear(embeddings, self.linear_map)
        return (embeddings - self.mean) * self.scale

    def pre_activations(self, preprocessed: Tensor) -> Tensor:
        """Return a [n, h] in full precision: autocast and TF32 are off, so selection is repeatable."""
        with _full_precision(preprocessed.device.type):
            bias = self._encoding_bias() if self.frozen_bias is None else self.frozen_bias
            return F.linear(preprocessed, self.weight, bias)

    def _encoding_bias(self) -> Tensor:
        # W b_pre apart from W x': its gradient is then a product with a vector, a third of a step cheaper.
        return self.latent_bias - self.weight @ self.pre_bias

    def encode(self, embeddings: Tensor, k: int) -> Codes[Tensor]:
        """Return the codes of raw embeddings [n, d], not normalised, latents as int64."""
        return top_k(self.pre_activations(self.preprocess(embeddings)), k)

    def decode(self, codes: Codes[Tensor]) -> Tensor:
        """Return Wᵀ z [n, d], without gain and bias."""
        return self._decode_segments(codes, (codes.latents.shape[1],))[:, 0]

    def reconstruct(self, codes: Codes[Tensor], ks: tuple[int, ...], dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return x̂ [n, d] from the first k latents, for each of the `ks`.

        Args:
            codes: [n, max(ks)], weights as `encode` gives them.
            ks: Ascending; a k between two `decode_ks` has a gain between theirs.
            dtype: Of the rows of W that are summed up, if not their own.
        """
        segments = self._decode_segments(codes, ks, dtype).unbind(1)
        prefixes = itertools.accumulate(segments)  # one k at a time stays in the cache: half the time of cumsum
        return [
            torch.addcmul(self.pre_bias, gain, prefix) for gain, prefix in zip(self._gains(ks), prefixes, strict=True)
        ]

    def _gains(self, ks: tuple[int, ...]) -> tuple[Tensor, ...]:
        if ks == self.decode_ks:
            return self.log_gain.exp().unbind()
        log_gains, last = self.log_gain.unbind(), len(self.decode_ks) - 1
        places = np.interp(np.log2(ks), np.log2(self.decode_ks), np.arange(last + 1)).tolist()
        lower = [int(place) for place in places]
        return tuple(
            torch.lerp(log_gains[i], log_gains[min(i + 1, last)], place - i).exp()
            for i, place in zip(lower, places, strict=True)
        )

    def _decode_segments(self, codes: Codes[Tensor], ends: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        # Gathers the active rows of W only: no [n, h] code is built, and the nested prefixes share work.
        rows, width = codes.latents.shape
        device, span = codes.latents.device, rows * width
        # Made where they are used: a tensor from the host would let the host wait for an accelerator.
        starts = [torch.arange(start, start + span, width, device=device) for start in (0, *ends[:-1])]
        segments = F.embedding_bag(
            codes.latents.reshape(-1),
            self.weight.to(dtype or self.weight.dtype),
            torch.stack(starts, dim=1).reshape(-1),
            mode="sum",
            per_sample_weights=codes.weights.reshape(-1).to(dtype or self.weight.dtype),
        )
        return segments.to(self.weight.dtype).view(rows, len(ends), self.input_dim)


class _Tf32Off:
    """Keeps TF32 off while any thread is inside: the flag is the process's, so the last one out restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._allowed = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._allowed = torch.backends.cuda.matmul.allow_tf32
                torch.backends.cuda.matmul.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cuda.matmul.allow_tf32 = self._allowed


_tf32_off = _Tf32Off()


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    with _tf32_off if device_type == "cuda" else nullcontext(), torch.autocast(device_type, enabled=False):
        yield
