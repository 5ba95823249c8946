"""Random codes in the shapes that break indexes: skewed, clustered, tied, empty, all equal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.index.core.index import SparseIndex

STYLES = (
    *("skewed", "uniform", "clustered", "copied", "tied", "equal"),
    *("one-latent", "few-active", "tiny-weights", "some-empty"),
)
_CLUSTER = 24
"""Codes of one cluster, on average."""


@dataclass(frozen=True)
class Batch:
    """latents int64 [n, width] and weights float32 [n, width], as `SparseIndex.upsert` takes them."""

    latents: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.latents[rows], self.weights[rows])


def codes(rng: np.random.Generator, style: str, count: int, hidden_dim: int, width: int) -> Batch:
    """Draw codes with at most `width` active latents, padded at random to a little more than that.

    Documents and queries of one style resemble each other only when they are drawn together: see `split`.
    """
    width = min(width, hidden_dim)
    latents = _latents(rng, count, hidden_dim, width, style)
    weights = _weights(rng, count, width, style)
    if style in ("equal", "copied"):
        latents[:] = latents[:1]
    elif style == "one-latent":
        latents[:, 0], weights[:, 1:] = 0, 0.0
    else:
        weights[rng.random((count, width)) < 0.2] = 0.0
    if style == "clustered":
        of = rng.integers(0, count // _CLUSTER + 1, count)
        changed = rng.random((count, width)) < 0.1
        latents = _distinct(np.where(changed, latents, latents[of]), width)
        weights = weights[of] * rng.uniform(0.8, 1.25, (count, width))
    if style == "few-active":
        weights[np.arange(width) >= rng.integers(0, width // 4 + 2, (count, 1))] = 0.0
    if style == "some-empty":
        weights[rng.random(count) < 0.5] = 0.0
    weights = -np.sort(-weights, axis=1)
    padding = int(rng.integers(0, 3))
    return Batch(
        np.pad(latents, ((0, 0), (0, padding))).astype(np.int64),
        np.pad(weights, ((0, 0), (0, padding))).astype(np.float32),
    )


def split(batch: Batch, queries: int) -> tuple[Batch, Batch]:
    """Return all codes but the last few, as documents, and those, as queries."""
    return batch[: len(batch) - queries], batch[len(batch) - queries :]


def _latents(rng: np.random.Generator, count: int, hidden_dim: int, width: int, style: str) -> NDArray[np.int64]:
    drawn = rng.random((count, 2 * width))
    if style in ("skewed", "clustered"):  # log-uniform: latent i has odds of about 1 / (1 + i)
        return _distinct(np.minimum((hidden_dim + 1.0) ** drawn - 1, hidden_dim - 1).astype(np.int64), width)
    return _distinct((hidden_dim * drawn).astype(np.int64), width)


def _distinct(drawn: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the first `width` different numbers of every row; 0, 1, … follow where a row has fewer."""
    candidates = np.hstack([drawn, np.broadcast_to(np.arange(width), (len(drawn), width))])
    order = np.argsort(candidates, axis=1, kind="stable")
    ascending = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(candidates.shape, np.bool_)
    np.put_along_axis(repeated, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
    first = np.argsort(repeated, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(candidates, first, axis=1)


def _weights(rng: np.random.Generator, count: int, width: int, style: str) -> NDArray[np.float64]:
    if style == "equal":
        return np.ones((count, width))
    if style == "tied":
        return rng.integers(1, 4, (count, width)) / 2
    if style == "copied":  # 64 copies of nearly equal codes: block bounds exceed the scores by their rounding only
        distinct = np.arange(width, 0, -1) + rng.uniform(-0.2, 0.2, (count // 64 + 1, width))
        return np.repeat(distinct, 64, axis=0)[:count]
    weights = rng.gamma(1.0, 1.0, (count, width)) + 1e-3
    if style == "tiny-weights":
        weights[:, width // 2 :] *= 1e-5
    return weights


@st.composite
def batches(draw: st.DrawFn, hidden_dim: int, width: int, count_max: int = 12) -> Batch:
    """Draw a batch of codes of any style."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return codes(rng, draw(st.sampled_from(STYLES)), draw(st.integers(0, count_max)), hidden_dim, width)


def held(index: SparseIndex) -> dict[str, tuple[int, int]]:
    """Return the version and partition of every document."""
    return {document.id: (document.version, document.partition) for document in index.scan(1_000_000)}


def single(latents: list[int], weights: list[float]) -> dict[str, Any]:
    """Return one code as keyword arguments of `upsert` or `search`."""
    return {"latents": np.array([latents], np.int64), "weights": np.array([weights], np.float32)}
