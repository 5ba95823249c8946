"""Filters through a real router and real index servers: searches, counts, pages and deletions."""

from collections.abc import Callable
from typing import Any

import pytest

from services.client import Client, Codes, Eq, Range, Token
from services.client.filters import Where
from services.runtime.errors import InvalidRequest, WrongState
from tests.services.router.corpus import FINGERPRINT, create_codes_collection, documents, expected, found, random_codes
from tests.services.router.labelled import COUNT, FIELDS, FILTERS, create_labelled, id_of, matching, payload_of
from tests.support.deployment import Deployment

Keep = Callable[[dict[str, Any]], bool]
NAME = "labelled"


@pytest.fixture(scope="module")
def labelled(deployment: Deployment) -> tuple[Codes, Token]:
    """The collection that these tests only read."""
    with deployment.client() as client:
        return create_labelled(client, NAME)


def test_declared_fields_are_described(client: Client, labelled: object) -> None:
    """Users could not see what they may filter by."""
    assert client.describe_collection(NAME).collection.fields == FIELDS


@pytest.mark.parametrize(("where", "keep"), FILTERS)
def test_hits_are_the_best_of_what_matches(
    client: Client, labelled: tuple[Codes, Token], where: Where, keep: Keep
) -> None:
    """Users would find documents that their filter excludes, or miss some that it lets through."""
    codes, token = labelled
    queries = random_codes(12, seed=22)
    rows = matching(keep)
    part = Codes(codes.latents[rows], codes.weights[rows], FINGERPRINT)
    right = expected(documents([id_of(row) for row in rows], part), queries, 7)
    result = client.search(NAME, codes=queries, top_n=7, where=where, token=token)
    assert found(result) == right
    assert any(right) == bool(rows)


@pytest.mark.parametrize(("where", "keep"), FILTERS)
def test_counts_are_of_what_matches(client: Client, labelled: tuple[Codes, Token], where: Where, keep: Keep) -> None:
    """Users would be told a number that no listing gives."""
    _, token = labelled
    counted = client.count(NAME, where=where, token=token)
    assert counted.count == len(matching(keep))
    assert all(counted.token.positions[partition] >= lsn for partition, lsn in token.positions.items())


def test_all_documents_are_counted_in_the_store(client: Client, labelled: tuple[Codes, Token]) -> None:
    """A count without a filter would lag behind writes."""
    _, token = labelled
    assert client.count(NAME, token=token).count == COUNT
    ahead = Token(token.collection_id, {partition: lsn + 1 for partition, lsn in token.positions.items()})
    with pytest.raises(WrongState, match="the store lost acknowledged writes"):
        client.count(NAME, token=ahead)


@pytest.mark.parametrize("limit", [1, 7, 240, 1000])
def test_pages_hold_every_document_once_in_order(client: Client, labelled: tuple[Codes, Token], limit: int) -> None:
    """A listing would skip or repeat documents at the seams of its pages."""
    _, token = labelled
    where, keep = FILTERS[6] if limit == 1 else (None, lambda payload: True)
    wanted = sorted((id_of(row) for row in matching(keep)), key=str.encode)
    listed: list[str] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        page = client.scroll_page(NAME, limit=limit, cursor=cursor, where=where, token=token)
        assert len(page.documents) <= limit
        listed += [document.id for document in page.documents]
        assert all(document.version > 0 and document.payload is None for document in page.documents)
        cursor, pages = page.next_cursor, pages + 1
    assert listed == wanted
    assert pages <= len(wanted) // limit + 1


def test_pages_bring_payloads_and_say_what_they_are_from(client: Client, labelled: tuple[Codes, Token]) -> None:
    """A backup made of pages would pair documents with the payloads of others."""
    _, token = labelled
    page = client.scroll_page(NAME, limit=100, include_payloads=True, token=token)
    rows = {id_of(row): row for row in range(COUNT)}
    assert all(document.payload == payload_of(rows[document.id]) for document in page.documents)
    stored = client.get(NAME, [document.id for document in page.documents]).documents
    assert [document.version for document in page.documents] == [document.version for document in stored]
    assert (page.receipt.generation, page.receipt.coverage) == (1, 1.0)
    assert page.receipt.collection_id == token.collection_id
    assert set(page.receipt.token.positions) == set(range(4))


def test_cursors_of_another_collection_are_refused(client: Client, labelled: object, name: str) -> None:
    """A listing would go on in the middle of another collection."""
    create_codes_collection(client, name)
    cursor = client.scroll_page(NAME, limit=1).next_cursor
    with pytest.raises(WrongState, match=r"^cursor: of collection"):
        client.scroll_page(name, limit=1, cursor=cursor)
    with pytest.raises(InvalidRequest, match=r"^cursor: "):
        client.scroll_page(NAME, limit=1, cursor=cursor[:-4])


def test_pages_over_an_empty_collection_end(client: Client, name: str) -> None:
    """A listing of nothing would never end."""
    create_codes_collection(client, name)
    page = client.scroll_page(name, limit=5)
    assert (page.documents, page.next_cursor) == ([], "")


def test_filters_are_checked_at_the_door(client: Client, labelled: object) -> None:
    """A wrong filter would be explained by an index server that the caller knows nothing about."""
    with pytest.raises(InvalidRequest, match=r"^where\.equals\.field: 'colour' is not declared"):
        client.search(NAME, codes=random_codes(1, seed=1), where=Eq("colour", "red"))
    with pytest.raises(InvalidRequest, match=r"^where\.range\.field: 'lang' is keyword"):
        client.count(NAME, where=Range("lang", gt=1))


@pytest.mark.parametrize(("where", "keep"), FILTERS)
def test_deletion_by_filter_leaves_what_does_not_match(client: Client, name: str, where: Where, keep: Keep) -> None:
    """Documents would be deleted that the filter does not name, or stay although it does."""
    _, token = create_labelled(client, name)
    gone = matching(keep)
    deletion = client.delete_where(name, where, token=token, wait=True)
    assert (deletion.deleted, deletion.skipped, deletion.visible) == (len(gone), 0, True)
    left = {id_of(row) for row in range(COUNT)} - {id_of(row) for row in gone}
    assert {document.id for document in client.scroll(name, token=deletion.token)} == left
    assert client.count(name).count == len(left)
    assert client.count(name, where=where, token=deletion.token).count == 0
    again = client.delete_where(name, where)
    assert (again.deleted, again.skipped) == (0, 0)


def test_deletion_by_filter_spares_higher_versions(client: Client, name: str) -> None:
    """A deletion that arrives late would remove documents that were written after it was meant."""
    _, token = create_labelled(client, name, versioning="client")
    newer = client.update_payloads(name, [id_of(1)], [payload_of(1)], versions=[20])
    token = Token(token.collection_id, {**token.positions, **newer.token.positions})
    deletion = client.delete_where(name, Range("year", gte=0), version=15, token=token)
    assert (deletion.deleted, deletion.skipped) == (COUNT - 1, 1)
    assert client.get(name, [id_of(1), id_of(2)]).missing == [id_of(2)]
    with pytest.raises(InvalidRequest, match=r"^version: 0, must be"):
        client.delete_where(name, Range("year", gte=0))
