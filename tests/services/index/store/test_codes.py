import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.index.store.codes import decode_codes
from services.index.store.entry import BODY_FORMAT, DocumentBody, decode_body, encode_body
from services.runtime.errors import CorruptRecord, CsrError, WrongState
from tests.services.index.store.test_entry import bodies


@given(st.lists(bodies, max_size=8), st.data())
def test_many_codes_are_decoded_like_single_ones(drawn: list[DocumentBody], data: st.DataObject) -> None:
    """Otherwise a reloaded server would index other codes than the ones that were written."""
    generation = data.draw(st.sampled_from([1, *(number for body in drawn for number in body.codes)]))
    present, lengths, latents, weights = decode_codes([encode_body(body) for body in drawn], generation)
    expected = [body.codes.get(generation) for body in drawn]
    assert present.tolist() == [code is not None for code in expected]
    codes = [code for code in expected if code is not None]
    assert lengths.tolist() == [len(code.latents) for code in codes]
    assert (latents.dtype, weights.dtype) == (np.uint16, np.uint16)
    assert latents.tolist() == [latent for code in codes for latent in code.latents.tolist()]
    assert weights.tolist() == [weight for code in codes for weight in code.weights.tolist()]


def _decoded(raw: bytes) -> tuple[CsrError | None, DocumentBody]:
    try:
        return None, decode_body(raw)
    except CsrError as error:
        return error, DocumentBody()


@given(bodies, bodies, st.data())
def test_a_damaged_body_is_refused_like_a_single_one(
    good: DocumentBody, bad: DocumentBody, data: st.DataObject
) -> None:
    """Otherwise damage that a read by id reports would be indexed, or read beyond the end of memory."""
    raw = bytearray(encode_body(bad))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    batch = [encode_body(good), bytes(raw), encode_body(good)]
    error, decoded = _decoded(bytes(raw))
    if error is not None:
        with pytest.raises(type(error)) as refused:
            decode_codes(batch, 1)
        assert str(refused.value) == str(error)
    else:
        present, lengths, _, _ = decode_codes(batch, 1)
        assert bool(present[1]) == (1 in decoded.codes)
        if present[1]:
            assert lengths[int(present[0])] == len(decoded.codes[1].latents)


def test_the_first_of_several_damaged_bodies_is_named() -> None:
    """Otherwise the log of a server would point to another document than the one to repair first."""
    good = encode_body(DocumentBody())
    newer = bytes((BODY_FORMAT + 1,)) + good[1:]
    with pytest.raises(WrongState, match="upgrade"):
        decode_codes([good, newer, b""], 1)
    with pytest.raises(CorruptRecord):
        decode_codes([good, b"", newer], 1)
    assert [len(array) for array in decode_codes([], 1)] == [0, 0, 0, 0]
