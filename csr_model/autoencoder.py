"""The tied TopK autoencoder.

    x' = (x/‖x‖ − mean) · scale                  preprocessing, fixed
    a  = W (x' − b_pre) + b_lat                  pre-activations
    z  = ReLU(TopK(a, k))                        code
    x̂  = exp(g_k) · Wᵀ z + b_pre                 reconstruction; the gain g_k exists for the loss only

After Wen et al. 2025 (arXiv 2503.01776, section 3); centring, scaling, initial latents from data and
the gain are additions. Nothing here changes in a forward pass: counting is left to `dead_latents`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_model.codes import Codes
from csr_model.config import CSRConfig
from csr_model.embeddings import NORM_MIN
from csr_model.topk import top_k

_INITIAL_NOISE = 0.3
_INITIAL_NORM = 0.5


class CSRAutoencoder(nn.Module):
    """W [h, d] serves encoder and decoder; see the module's equations.

    Args:
        input_dim: d.
        hidden_dim: h.
        decode_ks: Ascending; the code sizes `reconstruct` decodes.
        normalize: Scale embeddings to unit length first.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, input_dim: int, hidden_dim: int, decode_ks: tuple[int, ...], normalize: bool = True) -> None:
        super().__init__()
        self.decode_ks = decode_ks
        self.normalize = normalize
        self.weight = nn.Parameter(torch.zeros(hidden_dim, input_dim))
        self.pre_bias = nn.Parameter(torch.zeros(input_dim))
        self.latent_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.log_gain = nn.Parameter(torch.zeros(len(decode_ks)))
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def from_rows(cls, config: CSRConfig, rows: Tensor, mean: Tensor, variance: float) -> "CSRAutoencoder":
        """Build with latents that start as training rows, plus noise; every latent fires from the start.

        Args:
            config: Dimensions, levels and seed.
            rows: Any number of training rows [n, d]; they are reused when n < h.
            mean: Preprocessing mean [d].
            variance: Mean squared distance of the preprocessed training rows to `mean`.
        """
        model = cls(config.input_dim, config.hidden_dim, config.decode_ks, config.normalize)
        model.mean.copy_(mean)
        model.scale.fill_(variance**-0.5)
        random = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(model.weight.shape, generator=random) * _INITIAL_NOISE / config.input_dim**0.5
        chosen = torch.cat([torch.randperm(len(rows), generator=random)] * -(-config.hidden_dim // len(rows)))
        with torch.no_grad():
            atoms = F.normalize(model.preprocess(rows)[chosen[: config.hidden_dim]], dim=1) + noise
            model.weight.copy_(_INITIAL_NORM * F.normalize(atoms, dim=1))
        return model

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
        return (embeddings - self.mean) * self.scale

    def pre_activations(self, preprocessed: Tensor) -> Tensor:
        """Return a [n, h] in full precision: autocast and TF32 are off, so selection is repeatable."""
        with _full_precision(preprocessed.device.type):
            return F.linear(preprocessed - self.pre_bias, self.weight, self.latent_bias)

    def encode(self, embeddings: Tensor, k: int) -> Codes[Tensor]:
        """Return the codes of raw embeddings [n, d], not normalised, latents as int64."""
        return top_k(self.pre_activations(self.preprocess(embeddings)), k)

    def decode(self, codes: Codes[Tensor]) -> Tensor:
        """Return Wᵀ z [n, d], without gain and bias."""
        return self._decode_segments(codes, (codes.latents.shape[1],))[:, 0]

    def reconstruct(self, codes: Codes[Tensor]) -> Tensor:
        """Return x̂ [n, m, d] from the first k latents, for each of the m `decode_ks`.

        Args:
            codes: [n, max(decode_ks)], weights as `encode` gives them.
        """
        prefixes = self._decode_segments(codes, self.decode_ks).cumsum(1)
        return self.log_gain.exp()[:, None] * prefixes + self.pre_bias

    def _decode_segments(self, codes: Codes[Tensor], ends: tuple[int, ...]) -> Tensor:
        # Gathers the active rows of W only: no [n, h] code is built, and the nested prefixes share work.
        rows, width = codes.latents.shape
        starts = torch.tensor((0, *ends[:-1]), device=codes.latents.device)
        offsets = torch.arange(rows, device=starts.device)[:, None] * width + starts
        segments = F.embedding_bag(
            codes.latents.reshape(-1),
            self.weight,
            offsets.reshape(-1),
            mode="sum",
            per_sample_weights=codes.weights.reshape(-1),
        )
        return segments.view(rows, len(ends), self.input_dim)


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    if device_type != "cuda":
        with torch.autocast(device_type, enabled=False):
            yield
        return
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
