"""Latents that many rows have, with a weight for every row, so that many rows are added up at once.

Of a latent that a quarter of the rows have, following the postings takes several times as long. Codes of real data have
such latents, at large k dozens of them, and they hold most of what a query touches.
"""

from typing import Final, NamedTuple

import numpy as np

from services.index.core.compiled import compiled, inlined
from services.index.core.postings import in_units
from services.index.core.shapes import I64, U8, U16, U32

NONE: Final = 65_535
_ROWS_OF = 4
"""A latent is common where more than one of so many rows has it. So the latents of a level are fewer than 4 · k."""


class Common(NamedTuple):
    """Weights of common latents.

    places: u16 [levels, h], the line of a latent at a level, or NONE. lines: u8 [number of lines, n], in units of the
    latent, rounded up; 0 in rows that do not have it at that level.
    """

    places: U16
    lines: U8


def build_common(latents: U16, weights: U16, levels: I64, units: U16, lengths: U32) -> Common:
    """Return the common latents of codes [n, k_max]; lengths are those of the postings, u32 [levels, h]."""
    chosen = lengths * np.uint32(_ROWS_OF) > len(latents)
    count = np.count_nonzero(chosen)
    places = np.full(lengths.shape, NONE, np.uint16)
    places[chosen] = np.arange(count)
    lines = np.zeros((count, len(latents)), np.uint8)
    if count:
        level_of_rank = np.searchsorted(levels, np.arange(latents.shape[1]), side="right")
        _fill(latents, weights, level_of_rank, units, places, lines)
    return Common(places, lines)


@compiled
def _fill(latents: U16, weights: U16, level_of_rank: I64, units: U16, places: U16, lines: U8) -> None:
    for row in range(len(latents)):
        for rank in range(latents.shape[1]):
            if weights[row, rank] == 0:
                break
            latent = latents[row, rank]
            for level in range(level_of_rank[rank], len(places)):
                place = places[level, latent]
                if place != NONE:
                    lines[place, row] = in_units(weights[row, rank], units[latent])


@inlined
def add_lines(lines: U8, places: I64, factors: I64, begin: int, sums: U16) -> None:
    """Add ⌈factor · weight / 256⌉ of every line to the sums of rows from `begin` on, four lines to one rounding."""
    fours = len(places) // 4 * 4
    for i in range(0, fours, 4):
        a, b, c, d = lines[places[i]], lines[places[i + 1]], lines[places[i + 2]], lines[places[i + 3]]
        _add_four(a[begin:], b[begin:], c[begin:], d[begin:], factors[i : i + 4], sums)
    for i in range(fours, len(places)):
        line, factor = lines[places[i]][begin:], np.uint32(factors[i])
        for row in range(len(sums)):
            sums[row] += np.uint16((factor * np.uint32(line[row]) + np.uint32(255)) >> np.uint32(8))


@inlined
def _add_four(a: U8, b: U8, c: U8, d: U8, factors: I64, sums: U16) -> None:
    of_a, of_b, of_c, of_d = (
        np.uint32(factors[0]),
        np.uint32(factors[1]),
        np.uint32(factors[2]),
        np.uint32(factors[3]),
    )
    for row in range(len(sums)):
        total = of_a * np.uint32(a[row]) + of_b * np.uint32(b[row])
        total += of_c * np.uint32(c[row]) + of_d * np.uint32(d[row])
        sums[row] += np.uint16((total + np.uint32(255)) >> np.uint32(8))
