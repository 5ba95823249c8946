"""The quality, in percent, that ours must reach on each set at k = 4, 8, 16, 32, 64; and what it aims at."""

from typing import NamedTuple


class Bar(NamedTuple):
    """One line of the table of goals.

    Attributes:
        least: By k, in the order of `KS`.
        aim: The same.
    """

    least: tuple[float, ...]
    aim: tuple[float, ...]


EQUAL_K: dict[str, Bar] = {
    "debian": Bar((34, 45, 51, 56, 59), (37, 48, 54, 59, 62)),
    "semanlink": Bar((35, 38, 39, 40, 40), (36.5, 39.5, 41, 42, 42.5)),
    "newsgroups20": Bar((80, 81, 81.5, 81.5, 81.5), (81, 82.5, 83, 83, 83)),
    "fashion": Bar((83.5, 84.5, 85, 85, 86), (85, 86.5, 87, 87.5, 88)),
}
"""Documents and queries with the same k."""

FAT_QUERIES: dict[str, Bar] = {"debian": Bar((40, 49, 54, 57, 59), (42, 52, 57, 60, 62))}
"""Queries at k = 64."""
