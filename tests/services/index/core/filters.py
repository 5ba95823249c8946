"""Random filters, random field values, and what a filter means, evaluated one document at a time."""

from typing import Any

from hypothesis import strategies as st

from services.index.core.where import And, Eq, In, Not, Or, Range

FIELDS = {"language": "keyword", "year": "int", "price": "float", "public": "bool", "tags": "keywords"}

INTS = [-(1 << 63), -(1 << 53) - 1, -1, 0, 1999, 2000, 2001, (1 << 53) + 1, (1 << 63) - 1]
"""Both ends of 64 bits, and neighbours that float64 cannot tell apart."""
FLOATS = [-1.7976931348623157e308, -1.25, -5e-324, -0.0, 0, 5e-324, 0.5, 2, (1 << 53) + 1, 1e300, (1 << 63) - 1]
WORDS = ["de", "en", "", "日本", "de\x00", "z" * 300]

VALUES = {
    "language": st.sampled_from(WORDS),
    "year": st.sampled_from(INTS) | st.integers(1998, 2003),
    "price": st.sampled_from(FLOATS),
    "public": st.booleans(),
    "tags": st.lists(st.sampled_from(WORDS), max_size=3),
}
RECORDS = st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in VALUES.items()})
"""Any field may be missing, or None, which means the same."""

OPERANDS = {**VALUES, "tags": st.sampled_from([*WORDS, "fr"]), "language": st.sampled_from([*WORDS, "fr"])}


def _ranges(name: str) -> st.SearchStrategy[Any]:
    bounds = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), OPERANDS[name], min_size=1, max_size=3)
    return bounds.map(lambda chosen: Range(name, **chosen))


LEAVES = st.one_of(
    st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.builds(Eq, st.just(name), OPERANDS[name])),
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda name: st.builds(In, st.just(name), st.lists(OPERANDS[name], min_size=1, max_size=3).map(tuple))
    ),
    _ranges("year"),
    _ranges("price"),
)


def _combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(st.builds(And, several), st.builds(Or, several), st.builds(Not, inner))


FILTERS = st.recursive(LEAVES, _combined, max_leaves=5)


def matches(where: Any, record: Any) -> bool:
    """Evaluate a filter on one document's values."""
    match where:
        case And(filters):
            return all(matches(child, record) for child in filters)
        case Or(filters):
            return any(matches(child, record) for child in filters)
        case Not(child):
            return not matches(child, record)
    value = record.get(where.field)
    if value is None:
        return False
    read = float if FIELDS.get(where.field) == "float" else lambda given: given
    values = [read(item) for item in value] if isinstance(value, list) else [read(value)]
    match where:
        case Eq(_, wanted):
            return read(wanted) in values
        case In(_, several):
            return any(read(wanted) in values for wanted in several)
    (number,) = values
    return (
        (where.gte is None or number >= read(where.gte))
        and (where.gt is None or number > read(where.gt))
        and (where.lte is None or number <= read(where.lte))
        and (where.lt is None or number < read(where.lt))
    )
