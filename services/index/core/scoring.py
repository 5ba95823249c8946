"""Scores of rows from their codes, exactly. Every other kernel ends here."""

from typing import NamedTuple

import numpy as np

from services.index.core.bits import Words
from services.index.core.compiled import borrowing, inlined
from services.index.core.hits import Hits, PackedIds, offer, threshold
from services.index.core.postings import BLOCK
from services.index.core.shapes import I64, U16


class Query(NamedTuple):
    """One query's prefix.

    latents, weights: u16 [active]. square: Σq̂². by_latent: u16 [h], its weights, to be looked up by latent.
    floor: least score of a hit; 0 admits every score, which are all > 0.
    """

    latents: U16
    weights: U16
    square: int
    by_latent: U16
    floor: float


class Documents(NamedTuple):
    """The codes that a kernel scores.

    latents, weights: u16 [n, k_max]. ids: theirs. allowed: which rows may be found. k: latents of each in use.
    """

    latents: U16
    weights: U16
    ids: PackedIds
    allowed: Words
    k: int


@inlined
def load(latents: U16, weights: U16, floor: float, by_latent: U16) -> Query:
    """Make a query of a stored code; by_latent is all 0 before, and after `unload`."""
    active, square = 0, np.int64(0)
    while active < len(latents) and weights[active] > 0:
        by_latent[latents[active]] = weights[active]
        square += np.int64(weights[active]) * np.int64(weights[active])
        active += 1
    return Query(latents[:active], weights[:active], int(square), by_latent, floor)


@inlined
def unload(query: Query) -> None:
    """Make by_latent all 0 again."""
    for latent in query.latents:
        query.by_latent[latent] = 0


@borrowing
def is_allowed(allowed: Words, row: int) -> bool:
    """Tell whether a row's bit is set."""
    return bool((allowed[row >> 6] >> np.uint64(row & 63)) & np.uint64(1))


@borrowing
def score_rows(documents: Documents, query: Query, rows: I64, hits: Hits, filled: int) -> int:
    """Offer the scores of allowed rows that are > 0 and not below the floor; return how many hits there are."""
    latents, weights, by_latent = documents.latents, documents.weights, query.by_latent
    least = threshold(hits, filled, query.floor)
    for row in rows:
        total, square = np.uint64(0), np.uint64(0)
        for rank in range(documents.k):
            weight = np.uint64(weights[row, rank])
            total += weight * np.uint64(by_latent[latents[row, rank]])
            square += weight * weight
        if total == 0:
            continue
        score = np.float64(total) / np.sqrt(np.float64(query.square) * np.float64(square))
        if score >= least:
            filled = offer(hits, filled, score, row, documents.ids)
            least = threshold(hits, filled, query.floor)
    return filled


@inlined
def score_block(documents: Documents, query: Query, block: int, hits: Hits, filled: int) -> int:
    """Offer the allowed rows of one block."""
    word = documents.allowed[block]
    if word == 0:
        return filled
    rows, found = np.empty(BLOCK, np.int64), 0
    for row in range(block * BLOCK, min((block + 1) * BLOCK, len(documents.latents))):
        rows[found] = row
        found += int((word >> np.uint64(row & 63)) & np.uint64(1))
    return score_rows(documents, query, rows[:found], hits, filled)


@inlined
def score_all(documents: Documents, query: Query, hits: Hits, filled: int) -> int:
    """Offer every allowed row: for rows without postings, and where few rows are allowed."""
    for block in range((len(documents.latents) + BLOCK - 1) // BLOCK):
        filled = score_block(documents, query, block, hits, filled)
    return filled
