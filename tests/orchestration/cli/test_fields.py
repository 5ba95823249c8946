"""Fields and filters as people type them."""

import pytest
import typer

from orchestration.cli.fields import parse_condition, parse_fields, where_of
from services.client.filters import And, Eq, Range, Where
from services.client.types import FieldType
from services.runtime.errors import InvalidRequest

DECLARED: dict[str, FieldType] = {
    "lang": "keyword",
    "year": "int",
    "price": "float",
    "sold": "bool",
    "tags": "keywords",
}


@pytest.mark.parametrize(
    ("texts", "where"),
    [
        ([], None),
        (["lang=de"], Eq("lang", "de")),
        (["lang="], Eq("lang", "")),
        (["lang=a>=b=c"], Eq("lang", "a>=b=c")),
        (["lang=2020"], Eq("lang", "2020")),
        (["tags=red fox"], Eq("tags", "red fox")),
        (["sold=true"], Eq("sold", True)),
        (["sold=false"], Eq("sold", False)),
        (["year=-7"], Eq("year", -7)),
        (["year>=2020"], Range("year", gte=2020)),
        (["year<2020"], Range("year", lt=2020)),
        (["price<=1e3"], Range("price", lte=1000.0)),
        (["price>0.5", "lang=de"], And([Range("price", gt=0.5), Eq("lang", "de")])),
    ],
)
def test_conditions_become_a_filter(texts: list[str], where: Where | None) -> None:
    """A search would be answered for another filter than the one that was typed."""
    assert where_of([parse_condition(text) for text in texts], DECLARED) == where


@pytest.mark.parametrize("text", ["", "lang", "=de", "la ng=de", "lang!de", "7up=de"])
def test_what_is_no_condition_is_wrong_usage(text: str) -> None:
    """A typo would be searched for."""
    with pytest.raises(typer.BadParameter, match="FIELD=VALUE"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour=red", "colour: not declared; the collection's fields are: lang, year, price, sold, tags"),
        ("year=new", "year: 'new' is no int"),
        ("year=1_000", "year: '1_000' is no int"),
        ("price=nan", "price: 'nan' is no float"),
        ("sold=yes", "sold: 'yes' is no bool"),
        ("sold>=true", "sold: bool fields are compared with = only"),
        ("lang<m", "lang: keyword fields are compared with = only"),
    ],
)
def test_what_the_field_does_not_take_is_explained(text: str, reason: str) -> None:
    """People would have to guess the type of a field."""
    with pytest.raises(InvalidRequest, match=reason):
        where_of([parse_condition(text)], DECLARED)


def test_fields_are_declared_with_their_types() -> None:
    """A collection would be created with fields of other types, for ever."""
    assert parse_fields(["lang:keyword", "year:int", "tags:keywords"]) == {
        "lang": "keyword",
        "year": "int",
        "tags": "keywords",
    }


@pytest.mark.parametrize("texts", [["lang"], ["lang:text"], ["lang:"], ["lang:int", "lang:int"]])
def test_what_declares_no_field_is_wrong_usage(texts: list[str]) -> None:
    """A typo would become a field, for ever."""
    with pytest.raises(typer.BadParameter, match="types are keyword, int, float, bool, keywords"):
        parse_fields(texts)
