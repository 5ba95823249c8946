import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.index.store.entry import (
    BODY_FORMAT,
    DocumentBody,
    LogEntry,
    QuantisedCode,
    StoredRecord,
    checksum_of,
    combine_digests,
    decode_body,
    document_digest,
    encode_body,
    encode_content,
    input_digest,
)
from services.runtime.errors import CorruptRecord, WrongState


@st.composite
def codes(draw: st.DrawFn) -> QuantisedCode:
    """Draw any code, also the empty one."""
    length = draw(st.integers(0, 256))
    return QuantisedCode(draw(hnp.arrays(np.uint16, length)), draw(hnp.arrays(np.uint16, length)))


bodies = st.builds(
    DocumentBody,
    embedding=st.none() | hnp.arrays(np.float16, st.integers(1, 64), elements={"allow_nan": False}),
    payload=st.binary(max_size=200),
    codes=st.dictionaries(st.integers(1, 2**32 - 1), codes(), max_size=3),
)


@given(bodies)
def test_a_body_comes_back_as_it_was_stored(body: DocumentBody) -> None:
    """Otherwise documents would be answered with other embeddings, payloads or codes than were written."""
    again = decode_body(encode_body(body))
    assert (again.embedding is None) == (body.embedding is None)
    if body.embedding is not None and again.embedding is not None:
        np.testing.assert_array_equal(again.embedding, body.embedding)
    assert again.payload == body.payload
    assert again.codes.keys() == body.codes.keys()
    for generation, code in body.codes.items():
        np.testing.assert_array_equal(again.codes[generation].latents, code.latents)
        np.testing.assert_array_equal(again.codes[generation].weights, code.weights)


@given(bodies, st.data())
def test_a_body_cut_short_or_too_long_is_refused(body: DocumentBody, data: st.DataObject) -> None:
    """Otherwise half a document would be searched as if it were whole."""
    raw = encode_body(body)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for wrong in (raw[:cut], raw + b"\0"):
        with pytest.raises(CorruptRecord):
            decode_body(wrong)


def test_a_body_of_a_newer_format_asks_for_an_upgrade() -> None:
    """Otherwise an old process in a rolling upgrade would misread documents, or report intact data as corrupt."""
    with pytest.raises(WrongState, match="upgrade"):
        decode_body(bytes((BODY_FORMAT + 1,)) + encode_body(DocumentBody())[1:])


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_every_changed_byte_of_a_record_is_noticed(position: int, flip: int) -> None:
    """Otherwise bit rot in Redis would change versions, tombstones or codes and be served."""
    content = encode_content(False, input_digest(b"x"), encode_body(DocumentBody(payload=b"{}")))
    raw = bytearray((7).to_bytes(8) + checksum_of(7, "id", content) + content)
    assert StoredRecord.parse("id", bytes(raw)).version == 7
    raw[position % len(raw)] ^= flip
    with pytest.raises(CorruptRecord):
        StoredRecord.parse("id", bytes(raw))


def test_a_record_under_another_id_is_refused() -> None:
    """Otherwise a record that lands under the wrong id would be served as that document."""
    content = encode_content(False, input_digest(b"x"), encode_body(DocumentBody()))
    with pytest.raises(CorruptRecord):
        StoredRecord.parse("other", (7).to_bytes(8) + checksum_of(7, "id", content) + content)


@pytest.mark.parametrize(
    "fields", [{}, {b"i": b"id", b"r": b"short", b"c": b""}, {b"i": b"\xff", b"r": b"", b"c": b""}]
)
def test_an_unreadable_log_entry_is_a_corrupt_record(fields: dict[bytes, bytes]) -> None:
    """Otherwise a mangled entry would stop the reader of the log with an error that nobody handles."""
    with pytest.raises(CorruptRecord):
        LogEntry.parse(b"1-0", fields)


@given(st.dictionaries(st.text(), st.integers(1, 2**53 - 1), min_size=1, max_size=20))
def test_the_state_digest_ignores_order_and_forgets_what_is_removed(versions: dict[str, int]) -> None:
    """Otherwise replicas that applied the same writes in another order would look different, or the reverse."""
    digests = [document_digest(id, version) for id, version in versions.items()]
    shuffled = sorted(digests)
    assert combine_digests(shuffled) == combine_digests(digests)
    assert combine_digests([combine_digests(digests), digests[0]]) == combine_digests(digests[1:])


def test_input_digests_know_where_a_part_ends() -> None:
    """Otherwise a vector and a payload that trade a byte would pass as the same write."""
    assert input_digest(b"ab", b"c") != input_digest(b"a", b"bc")
    assert len(input_digest()) == 8
