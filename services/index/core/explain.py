"""Why a document has its score: the latents that it shares with the query, and what each of them adds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, ids
from services.index.core.code import Codes
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows
from services.index.core.writer import State


@dataclass(frozen=True, slots=True)
class Contribution:
    """One shared latent. Weights are those of the two prefixes in use, each scaled to length 1."""

    latent: int
    query_weight: float
    document_weight: float
    score: float
    """Its part of the document's score: q̂·d̂ / √(Σq̂² · Σd̂²), which is query_weight · document_weight."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A document's score for a query."""

    id: str
    score: float
    """Bit for bit what a search gives; 0.0 when query and document share no latent, so that no search finds it."""
    contributions: tuple[Contribution, ...]
    """By score descending, then latent ascending; they add up to the score, but for rounding in the last bits."""


def explain(state: State, query: Codes, k_docs: int, wanted: Ragged, hidden_dim: int) -> list[Explanation | None]:
    """Explain one query, cut to its prefix already, for each wanted id; None where there is no such document."""
    by_latent = np.zeros(hidden_dim, np.int64)
    active = query.weights[0] > 0
    by_latent[query.latents[0, active]] = query.weights[0, active]
    query_square = float(np.sum(by_latent**2))
    explained: list[Explanation | None] = [None] * len(wanted)
    for rows, found in _located(state, wanted):
        for position in np.flatnonzero(found >= 0).tolist():
            row = found[position]
            name = wanted.row(position).tobytes().decode()
            latents, weights = rows.latents[row, :k_docs], rows.weights[row, :k_docs].astype(np.int64)
            explained[position] = _explanation(name, latents, by_latent[latents], weights, query_square)
    return explained


def _located(state: State, wanted: Ragged) -> list[tuple[Rows, NDArray[np.int64]]]:
    """Return, for each set of rows in a state, the row of every wanted document, -1 where it is not among them."""
    located = []
    for part in state.parts:
        found = part.segment.find(wanted)
        found[found >= 0] = np.where(bits.contains(part.alive, found[found >= 0]), found[found >= 0], -1)
        located.append((part.segment.rows, found))
    # The memtable's own table of ids belongs to the writer; among the few rows that are alive ids are distinct.
    alive = bits.rows_of(state.recent_alive, len(state.recent))
    names = state.recent.ids.take(alive)
    slots = ids.build_table(names.flat, names.offsets)
    found = ids.find_rows(slots, names.flat, names.offsets, wanted.flat, wanted.offsets)
    found[found >= 0] = alive[found[found >= 0]]
    return [*located, (state.recent, found)]


def _explanation(
    name: str,
    latents: NDArray[np.uint16],
    of_query: NDArray[np.int64],
    of_document: NDArray[np.int64],
    query_square: float,
) -> Explanation:
    """Explain one document from its latents and, for each of them, the stored weights of both sides."""
    products = of_query * of_document
    shared = np.flatnonzero(products)
    if not len(shared):
        return Explanation(name, 0.0, ())
    square = float(np.sum(of_document**2))
    length = np.sqrt(query_square * square)
    contributions = tuple(
        Contribution(
            int(latents[rank]),
            float(of_query[rank] / np.sqrt(query_square)),
            float(of_document[rank] / np.sqrt(square)),
            float(products[rank] / length),
        )
        for rank in shared[np.lexsort((latents[shared], -products[shared]))].tolist()
    )
    return Explanation(name, float(np.sum(products) / length), contributions)
