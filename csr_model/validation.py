"""Which rows or pairs are held out from training, by their ids and so the same on every machine."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_ONE_IN = 10


def held_out(ids: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return [n] bool, True for about a tenth: those whose SHA-256 is 0 modulo 10."""
    return np.array([_number(name) % _ONE_IN == 0 for name in ids], dtype=bool)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
