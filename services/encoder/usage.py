"""Which latents live traffic uses: the health of a model, seen without labels."""

import numpy as np
import numpy.typing as npt


class LatentUsage:
    """How often each latent was active in the codes observed so far. Not safe for concurrent use."""

    def __init__(self, hidden_dim: int) -> None:
        self._counts = np.zeros(hidden_dim, np.int64)

    def observe(self, latents: npt.NDArray[np.uint16]) -> None:
        """Count active latents, any shape; padding must be left out."""
        self._counts += np.bincount(latents.ravel(), minlength=self._counts.size)

    @property
    def unused_share(self) -> float:
        """Share of latents that were never active, 0 to 1; 1 before the first observation."""
        return 1.0 - np.count_nonzero(self._counts) / self._counts.size

    @property
    def entropy_bits(self) -> float:
        """Shannon entropy of the latents' shares of all activations: 0 (one latent) to log2(hidden_dim) (all alike)."""
        used = self._counts[self._counts > 0]
        if used.size == 0:
            return 0.0
        shares = used / used.sum()
        return float(-(shares * np.log2(shares)).sum())
