"""Filters as messages, read back with the server's own reader."""

import numpy as np
import pytest

from services.client import And, Eq, In, Not, Or, Range, Where
from services.client.filters import filter_message
from services.index.core import where as engine
from services.index.filters import where_from_proto
from services.runtime.errors import InvalidRequest

DECLARED = {"lang": "keyword", "year": "int", "price": "float", "sold": "bool", "tags": "keywords"}


@pytest.mark.parametrize(
    ("where", "read"),
    [
        (Eq("lang", "de"), engine.Eq("lang", "de")),
        (Eq("year", -(1 << 63)), engine.Eq("year", -(1 << 63))),
        (Eq("year", np.int64(7)), engine.Eq("year", 7)),  # type: ignore[arg-type]
        (Eq("price", 1.5), engine.Eq("price", 1.5)),
        (Eq("price", 2), engine.Eq("price", 2)),
        (Eq("sold", True), engine.Eq("sold", True)),
        (Eq("sold", np.bool_(False)), engine.Eq("sold", False)),  # type: ignore[arg-type]
        (In("tags", ["a", "b"]), engine.In("tags", ("a", "b"))),
        (Range("price", gt=0, lte=9.5), engine.Range("price", gt=0.0, lte=9.5)),
        (Range("price", gte=0), engine.Range("price", gte=0.0)),
        (
            And([Or([Eq("lang", "de"), Eq("lang", "en")]), Not(Eq("sold", True))]),
            engine.And(
                (engine.Or((engine.Eq("lang", "de"), engine.Eq("lang", "en"))), engine.Not(engine.Eq("sold", True)))
            ),
        ),
    ],
)
def test_a_filter_arrives_as_it_was_written(where: Where, read: engine.Where) -> None:
    """Searches would be answered for another filter."""
    assert where_from_proto(filter_message(where), "where", DECLARED) == read  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [And([]), Or([]), In("lang", []), Range("price")])
def test_an_empty_filter_is_not_taken_for_none(where: Where) -> None:
    """A filter that was built from an empty list would match everything, and delete_where delete it."""
    with pytest.raises(InvalidRequest, match="where"):
        where_from_proto(filter_message(where), "where", DECLARED)  # type: ignore[arg-type]
