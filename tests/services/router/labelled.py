"""A collection with declared fields, and the right answers to filters over it."""

from collections.abc import Callable
from typing import Any, Final

from services.client import And, Client, Codes, Eq, In, Not, Or, Range, Token
from services.client.filters import Where
from tests.services.router.corpus import create_codes_collection, random_codes

FIELDS: Final = {"lang": "keyword", "year": "int", "price": "float", "sold": "bool", "tags": "keywords"}
COUNT: Final = 240

FILTERS: Final[list[tuple[Where, Callable[[dict[str, Any]], bool]]]] = [
    (Eq("lang", "de"), lambda payload: payload.get("lang") == "de"),
    (Eq("tags", "t1"), lambda payload: "t1" in payload["tags"]),
    (In("year", [2001, 2003]), lambda payload: payload["year"] in (2001, 2003)),
    (Range("price", gt=0.5, lte=3), lambda payload: 0.5 < payload["price"] <= 3),
    (Range("year", gte=2001.5), lambda payload: payload["year"] >= 2002),
    (Not(Eq("lang", "de")), lambda payload: payload.get("lang") != "de"),
    (
        And([Eq("sold", True), Or([Eq("lang", "en"), Range("year", lt=2002)])]),
        lambda payload: payload["sold"] and (payload.get("lang") == "en" or payload["year"] < 2002),
    ),
    (Eq("lang", "nowhere"), lambda payload: False),
]


def payload_of(row: int) -> dict[str, Any]:
    """Return the payload of a document; every seventh has no language."""
    payload = {
        "year": 2000 + row % 5,
        "price": row % 9 / 2,
        "sold": row % 3 == 0,
        "tags": [f"t{row % 4}", f"t{row % 6}"],
        "other": {"row": row},
    }
    return payload if row % 7 == 0 else {**payload, "lang": ("de", "en", "fr")[row % 3]}


def id_of(row: int) -> str:
    """Return the id of a document: not in the order of rows, and not ASCII alone."""
    return f"{'äz€a'[row % 4]}{row:04d}"


def create_labelled(client: Client, name: str, **changes: object) -> tuple[Codes, Token]:
    """Create the collection and store its documents."""
    create_codes_collection(client, name, fields=FIELDS, **changes)
    codes = random_codes(COUNT, seed=21)
    ids = [id_of(row) for row in range(COUNT)]
    versions = [10] * COUNT if changes.get("versioning") == "client" else None
    written = client.upsert(
        name, ids, codes=codes, payloads=[payload_of(row) for row in range(COUNT)], versions=versions
    )
    return codes, written.token


def matching(keep: Callable[[dict[str, Any]], bool]) -> list[int]:
    """Return the rows whose payload matches."""
    return [row for row in range(COUNT) if keep(payload_of(row))]
