import base64
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.index.store.catalog import CollectionRecord
from services.router.cursor import Cursor, scrolled_generation
from services.runtime import limits
from services.runtime.errors import InvalidRequest, WrongState

IDS = st.text(min_size=1, max_size=limits.ID_BYTES_MAX // 4)


def with_crc(raw: bytes) -> str:
    """Return the text of a cursor of these bytes."""
    return base64.urlsafe_b64encode(raw + zlib.crc32(raw).to_bytes(4)).decode()


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1), IDS)
def test_a_cursor_comes_back_as_it_was(collection_id: bytes, generation: int, last_id: str) -> None:
    """A page would begin behind another document than the one before ended with."""
    cursor = Cursor(collection_id.hex(), generation, last_id)
    assert Cursor.decode(cursor.encode()) == cursor


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_a_made_up_cursor_is_refused_or_harmless(text: str) -> None:
    """A hostile cursor would crash the router, or be taken for the beginning."""
    try:
        cursor = Cursor.decode(text)
    except InvalidRequest:
        return
    assert cursor.encode() == text
    assert 1 <= len(cursor.last_id.encode()) <= limits.ID_BYTES_MAX


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "====",
        "a" * 10_000,
        "ä",
        Cursor("ab" * 8, 1, "x").encode() + "\n",
        Cursor("ab" * 8, 1, "x" * 129).encode(),
        Cursor("ab" * 8, 1, "document").encode()[:-4],
        Cursor("ab" * 8, 1, "").encode(),
        with_crc(b"\x01" + b"\xab" * 8 + b"\0\0\0\1" + b"\xff"),
        with_crc(b"\x02" + b"\xab" * 8 + b"\0\0\0\1" + b"x"),
        with_crc(b"\x01" + b"\xab" * 8),
    ],
)
def test_what_no_scroll_answered_is_refused(text: str) -> None:
    """A damaged cursor would skip documents silently."""
    with pytest.raises(InvalidRequest, match=r"^cursor: "):
        Cursor.decode(text)


def test_a_cursor_stays_with_its_collection_and_generation(new_record: Callable[..., CollectionRecord]) -> None:
    """A listing would go on in another collection of the same name, or mix two encodings."""
    record = new_record()
    assert scrolled_generation("", record) == (record.active, "")
    assert scrolled_generation(Cursor(record.collection_id, 1, "d7").encode(), record) == (record.active, "d7")
    with pytest.raises(WrongState, match="begin again"):
        scrolled_generation(Cursor("ab" * 8, 1, "d7").encode(), record)
    with pytest.raises(WrongState, match="generation 2 of 'docs' is gone"):
        scrolled_generation(Cursor(record.collection_id, 2, "d7").encode(), record)
