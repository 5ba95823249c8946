"""What the values of settings must be; each refusal names the setting and its limit."""

import math
import sys
from collections.abc import Sequence
from typing import TypeGuard

from csr_model.errors import InvalidConfig


def check_levels(levels: object) -> None:
    """Refuse all but ascending powers of two, the last one any number from 1."""
    listed = list(levels) if isinstance(levels, Sequence) and not isinstance(levels, str) else []
    if not listed or any(not _is_integer(k) or k < 1 for k in listed) or listed != sorted(set(listed)):
        raise InvalidConfig(f"levels are {levels!r}; they must be ascending whole numbers from 1")
    if odd := [k for k in listed[:-1] if k & (k - 1)]:
        raise InvalidConfig(f"levels hold {odd}; every level but the last must be a power of two")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse what is none of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise InvalidConfig(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def check_positive(name: str, value: object) -> None:
    """Refuse all but finite numbers above 0."""
    if not (_is_finite(value) and value > 0):
        raise InvalidConfig(f"{name} is {value!r}; it must be finite and above 0")


def check_range(name: str, value: object, low: float, high: float = math.inf, whole: bool = True) -> None:
    """Refuse all but finite numbers, or whole ones, within low … high."""
    if not (_is_finite(value) and (not whole or _is_integer(value)) and low <= value <= high):
        limit = f"at least {low}" if high == math.inf else f"within {low} … {high}"
        raise InvalidConfig(f"{name} is {value!r}; it must be {'a whole number ' if whole else ''}{limit}")


def _is_finite(value: object) -> TypeGuard[float]:
    """False for what is no number, NaN, and whole numbers that no float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
