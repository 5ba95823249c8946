import json

import pytest

from services.index.core.fields import Declared
from services.index.fields import check_fields, field_values
from services.runtime.errors import InvalidRequest

DECLARED: Declared = {"lang": "keyword", "year": "int", "price": "float", "sold": "bool", "tags": "keywords"}
GOOD = {"lang": "de", "year": -(1 << 63), "price": 3, "sold": False, "tags": ["a", "b"], "title": {"any": "thing"}}


def test_values_of_declared_fields_are_read() -> None:
    """Filters would see other values than the payload shows, or members that nobody declared."""
    check_fields(GOOD, DECLARED, "payloads_json[0]")
    assert field_values(json.dumps(GOOD).encode(), DECLARED) == {name: GOOD[name] for name in DECLARED}


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"title":1}', b'{"lang":null}'])
def test_a_payload_without_declared_fields_has_no_values(payload: bytes) -> None:
    """Documents without a field would be refused by the index, or match filters."""
    check_fields(json.loads(payload or b"{}"), DECLARED, "payloads_json[0]")
    assert field_values(payload, DECLARED) is None


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("lang", 3, "a string"),
        ("lang", "\ud800", "a string"),
        ("lang", ["de"], "a string"),
        ("year", 3.0, "a signed 64-bit integer"),
        ("year", True, "a signed 64-bit integer"),
        ("year", 1 << 63, "a signed 64-bit integer"),
        ("price", float("inf"), "a finite number"),
        ("price", 1 << 70, "a finite number"),
        ("price", "3", "a finite number"),
        ("sold", 1, "true or false"),
        ("tags", "a", "a list of strings"),
        ("tags", ["a", 1], "a list of strings"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object, needed: str) -> None:
    """An index server would stop at a document that it cannot hold."""
    with pytest.raises(InvalidRequest) as raised:
        check_fields({**GOOD, name: value}, DECLARED, "payloads_json[7]")
    assert str(raised.value).startswith(f"payloads_json[7].{name}: ")
    assert needed in str(raised.value)
