"""Random codes in the shapes that break indexes: skewed, tied, empty, all equal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

STYLES = ("skewed", "uniform", "tied", "equal", "one-latent", "tiny-weights", "some-empty")


@dataclass(frozen=True)
class Batch:
    """latents int64 [n, width] and weights float32 [n, width], as `SparseIndex.upsert` takes them."""

    latents: NDArray[np.int64]
    weights: NDArray[np.float32]


def codes(rng: np.random.Generator, style: str, count: int, hidden_dim: int, width: int) -> Batch:
    """Draw codes with at most `width` active latents, padded at random to a little more than that."""
    width = min(width, hidden_dim)
    if style == "skewed":
        odds = 1 / (1 + np.arange(hidden_dim))
        odds /= odds.sum()
        latents = np.array([rng.choice(hidden_dim, width, replace=False, p=odds) for _ in range(count)])
    else:
        latents = np.array([rng.choice(hidden_dim, width, replace=False, shuffle=False) for _ in range(count)])
    latents = latents.reshape(count, width)
    weights = rng.gamma(1.0, 1.0, (count, width)) + 1e-3
    if style == "tied":
        weights = rng.integers(1, 4, (count, width)) / 2
    if style == "equal":
        latents[:], weights[:] = latents[:1], 1.0
    if style == "one-latent":
        latents[:, 0], weights[:, 1:] = 0, 0.0
    if style == "tiny-weights":
        weights[:, width // 2 :] *= 1e-5
    if style == "some-empty":
        weights[rng.random(count) < 0.5] = 0.0
    weights[rng.random((count, width)) < 0.2] = 0.0
    weights = -np.sort(-weights, axis=1)
    padding = int(rng.integers(0, 3))
    return Batch(
        np.pad(latents, ((0, 0), (0, padding))).astype(np.int64),
        np.pad(weights, ((0, 0), (0, padding))).astype(np.float32),
    )


@st.composite
def batches(draw: st.DrawFn, hidden_dim: int, width: int, count_max: int = 12) -> Batch:
    """Draw a batch of codes of any style."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return codes(rng, draw(st.sampled_from(STYLES)), draw(st.integers(0, count_max)), hidden_dim, width)


def single(latents: list[int], weights: list[float]) -> dict[str, Any]:
    """Return one code as keyword arguments of `upsert` or `search`."""
    return {"latents": np.array([latents], np.int64), "weights": np.array([weights], np.float32)}
