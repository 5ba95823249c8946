"""The values of one declared field over rows, as arrays that filters compare all at once."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.index.core import ragged
from services.index.core.fields import Declared, FieldType, Record
from services.index.core.ragged import GrowingRagged, Ragged

Mask: TypeAlias = NDArray[np.bool_]
_INT_BYTES: Final = 32
"""What CPython allocates for a small int; sys.getsizeof says 28."""
_DTYPES: Final[Mapping[str, type[np.generic]]] = {"int": np.int64, "float": np.float64, "bool": np.bool_}


@dataclass(frozen=True, slots=True)
class ScalarColumn:
    """An int, float or bool field: one value a row, meaningless where `present` is False."""

    values: NDArray[Any]
    present: Mask

    def any_of(self, wanted: Sequence[Any]) -> Mask:
        """Return the rows whose value is one of these."""
        return self.present & np.isin(self.values, np.array(wanted, self.values.dtype))

    def between(self, gte: Any, gt: Any, lte: Any, lt: Any) -> Mask:
        """Return the rows whose value lies within the given bounds; None is no bound."""
        mask = self.present.copy()
        for bound, compare in ((gte, np.greater_equal), (gt, np.greater), (lte, np.less_equal), (lt, np.less)):
            if bound is not None:
                mask &= compare(self.values, self.values.dtype.type(bound))
        return mask

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.values.nbytes + self.present.nbytes


@dataclass(frozen=True, slots=True)
class KeywordColumn:
    """A keyword or keywords field: any number of terms a row, as numbers into `terms` (text → its number)."""

    terms: dict[str, int]
    numbers: Ragged

    def any_of(self, wanted: Sequence[str]) -> Mask:
        """Return the rows that hold one of these terms."""
        known = [self.terms[term] for term in wanted if term in self.terms]
        hits = np.concatenate([[0], np.cumsum(np.isin(self.numbers.flat, known))])
        return np.asarray(hits[self.numbers.offsets[1:]] > hits[self.numbers.offsets[:-1]])

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and, estimated, of the terms."""
        return self.numbers.nbytes + _terms_nbytes(self.terms)


Column: TypeAlias = ScalarColumn | KeywordColumn


def are_of(declared: Declared, columns: Mapping[str, Column]) -> bool:
    """Tell whether these are columns of the declared fields; those of keyword and keywords are alike."""
    found = {name: getattr(column, "values", None) for name, column in columns.items()}
    dtypes = {name: None if values is None else values.dtype.type for name, values in found.items()}
    return dtypes == {name: _DTYPES.get(kind) for name, kind in declared.items()}


def build(declared: Declared, records: Sequence[Record]) -> dict[str, Column]:
    """Return one column for each declared field over checked records."""
    return {name: _build(kind, [record.get(name) for record in records]) for name, kind in declared.items()}


def _build(kind: FieldType, values: list[Any]) -> Column:
    if kind in _DTYPES:
        present = np.array([value is not None for value in values], np.bool_)
        return ScalarColumn(np.array([value or 0 for value in values], _DTYPES[kind]), present)
    rows = [() if value is None else (value,) if kind == "keyword" else value for value in values]
    terms: dict[str, int] = {}
    flat = np.array([terms.setdefault(term, len(terms)) for row in rows for term in row], np.int32)
    return KeywordColumn(terms, ragged.ragged([len(row) for row in rows], flat))


def gather(sources: Sequence[tuple[Column, NDArray[np.int64]]]) -> Column:
    """Return the selected rows of all sources, one source after the other; terms that no row holds are dropped."""
    scalars = [(column, selected) for column, selected in sources if isinstance(column, ScalarColumn)]
    if scalars:
        return ScalarColumn(
            gather_arrays([(column.values, selected) for column, selected in scalars]),
            gather_arrays([(column.present, selected) for column, selected in scalars]),
        )
    terms: dict[str, int] = {}
    keywords = [
        (_renumbered(column.terms, column.numbers.take(selected), terms), np.arange(len(selected)))
        for column, selected in sources
        if isinstance(column, KeywordColumn)
    ]
    return KeywordColumn(terms, ragged.gather(keywords))


def gather_arrays(sources: Sequence[tuple[NDArray[Any], NDArray[np.int64]]]) -> NDArray[Any]:
    """Return the selected rows of all arrays [n, …], one source after the other, copied once and without the GIL."""
    count = sum(len(selected) for _, selected in sources)
    gathered = np.empty((count, *sources[0][0].shape[1:]), sources[0][0].dtype)
    begin = 0
    for array, selected in sources:
        # "clip" only because it writes straight into `out`; every row is there.
        np.take(array, selected, axis=0, out=gathered[begin : begin + len(selected)], mode="clip")
        begin += len(selected)
    return gathered


def _terms_nbytes(terms: dict[str, int]) -> int:
    """Estimate the memory of terms: the table, and for each a text and a number as objects of their own.

    The first thousand stand for all, so that millions do not hold up other threads.
    """
    first = list(islice(terms, 1_000))
    texts = sum(map(sys.getsizeof, first)) / max(len(first), 1)
    return sys.getsizeof(terms) + round(len(terms) * (texts + _INT_BYTES))


def _renumbered(names: Mapping[str, int], numbers: Ragged, terms: dict[str, int]) -> Ragged:
    """Return numbers into `names` as numbers into `terms`, which gains the terms that it lacks."""
    texts = list(names)
    translation = np.zeros(len(texts), np.int32)
    for number in np.unique(numbers.flat):
        translation[number] = terms.setdefault(texts[number], len(terms))
    return Ragged(translation[numbers.flat], numbers.offsets)


class GrowingColumn(Protocol):
    """An append-only column for one writer; views taken earlier stay valid."""

    def write(self, at: int, column: Any) -> None:
        """Write the rows of a column of the same type at row `at`."""

    def view(self, length: int) -> Column:
        """Return the first `length` rows without copying."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""


class GrowingScalars:
    """Append-only ScalarColumn."""

    def __init__(self, capacity: int, dtype: type[np.generic]) -> None:
        self._whole = ScalarColumn(np.zeros(capacity, dtype), np.zeros(capacity, np.bool_))

    def write(self, at: int, column: ScalarColumn) -> None:
        """Write rows at row `at`."""
        end = at + len(column.values)
        self._whole.values[at:end], self._whole.present[at:end] = column.values, column.present

    def view(self, length: int) -> ScalarColumn:
        """Return the first `length` rows without copying."""
        return ScalarColumn(self._whole.values[:length], self._whole.present[:length])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._whole.nbytes


class GrowingKeywords:
    """Append-only KeywordColumn; its terms only grow, so a view's numbers keep their meaning."""

    def __init__(self, capacity: int) -> None:
        self._terms: dict[str, int] = {}
        self._numbers = GrowingRagged(capacity, np.int32)

    def write(self, at: int, column: KeywordColumn) -> None:
        """Write rows at row `at`."""
        self._numbers.write(at, _renumbered(column.terms, column.numbers, self._terms))

    def view(self, length: int) -> KeywordColumn:
        """Return the first `length` rows without copying."""
        return KeywordColumn(self._terms, self._numbers.view(length))

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and, estimated, of the terms."""
        return self._numbers.nbytes + _terms_nbytes(self._terms)


def growing(kind: FieldType, capacity: int) -> GrowingColumn:
    """Return an empty append-only column for a field type."""
    return GrowingScalars(capacity, _DTYPES[kind]) if kind in _DTYPES else GrowingKeywords(capacity)
