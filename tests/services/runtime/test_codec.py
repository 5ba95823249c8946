import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from csr.v1 import vector_pb2
from services.runtime import codec
from services.runtime.codec import (
    RaggedCodes,
    check_embeddings,
    codes_from_proto,
    codes_to_proto,
    embeddings_from_proto,
    embeddings_to_proto,
)
from services.runtime.errors import CsrError, FingerprintMismatch, InvalidRequest, InvalidVector, LimitExceeded

FINGERPRINT = "ab" * 16
HIDDEN_DIM = 64


@st.composite
def ragged_codes(draw: st.DrawFn) -> RaggedCodes:
    """Codes as the contract orders them: weight descending, then latent ascending."""
    rows = draw(st.lists(st.dictionaries(st.integers(0, 63), st.integers(1, 4), max_size=8), min_size=1, max_size=6))
    ordered = [sorted(row.items(), key=lambda item: (-item[1], item[0])) for row in rows]
    return RaggedCodes(
        np.array([len(row) for row in ordered], np.uint16),
        np.array([latent for row in ordered for latent, _ in row], np.uint16),
        np.array([weight for row in ordered for _, weight in row], np.float32),
    )


def equal(left: RaggedCodes, right: RaggedCodes) -> bool:
    """Whether both hold the same codes."""
    pairs = ((left.lengths, right.lengths), (left.latents, right.latents), (left.weights, right.weights))
    return all(np.array_equal(one, other) for one, other in pairs)


@given(ragged_codes())
def test_codes_survive_the_wire(codes: RaggedCodes) -> None:
    """A code would arrive as another code."""
    batch = vector_pb2.CodeBatch.FromString(codes_to_proto(codes, FINGERPRINT).SerializeToString())
    assert equal(codes_from_proto(batch, "codes", HIDDEN_DIM, 8, FINGERPRINT), codes)


@given(ragged_codes())
def test_padding_and_back(codes: RaggedCodes) -> None:
    """Codes would gain or lose latents between flat and padded arrays."""
    latents, weights = codes.padded()
    assert latents.shape == weights.shape == (len(codes), int(codes.lengths.max()))
    assert equal(RaggedCodes.from_padded(latents, weights), codes)
    assert codes.offsets.tolist() == [0, *np.cumsum(codes.lengths).tolist()]


@given(
    npst.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(1, 60_000, width=32))
)
def test_embeddings_survive_the_wire(embeddings: np.ndarray) -> None:
    """An embedding would arrive as another embedding."""
    batch = vector_pb2.EmbeddingBatch.FromString(embeddings_to_proto(embeddings).SerializeToString())
    np.testing.assert_array_equal(embeddings_from_proto(batch, "embeddings", embeddings.shape[1]), embeddings)


def test_any_float_type_is_sent_as_float32() -> None:
    """float64 and float16 arrays of callers would be sent as garbage."""
    for dtype in (np.float16, np.float32, np.float64, ">f4"):
        batch = embeddings_to_proto(np.array([[1, 2.5]], dtype))
        np.testing.assert_array_equal(embeddings_from_proto(batch, "embeddings"), [[1, 2.5]])


@pytest.mark.parametrize(
    ("latents", "weights", "text"),
    [
        ([1, 64], [2, 1], r"codes\[1\]\[1\]: latent 64.*latents are 0..63"),
        ([1, 1], [2, 1], r"codes\[1\]\[1\].*unique"),
        ([9, 3, 9, 1], [4, 3, 2, 1], r"codes\[1\]\[2\]: latent 9.*unique"),
        ([1], [np.nan], "finite"),
        ([1], [np.inf], "finite"),
        ([1, 2], [1, 0], "positive"),
        ([1, 2], [1, -2], "positive"),
        ([1, 2], [1, 2], "descend"),
    ],
)
def test_codes_that_no_model_makes_are_refused(latents: list[int], weights: list[float], text: str) -> None:
    """Scores over such codes would be wrong without anybody noticing."""
    codes = RaggedCodes(
        np.array([1, len(latents)], np.uint16), np.array([7, *latents], np.uint16), np.array([1, *weights], np.float32)
    )
    with pytest.raises(InvalidVector, match=text):
        codes_from_proto(codes_to_proto(codes, FINGERPRINT), "codes", HIDDEN_DIM, 8, FINGERPRINT)


@given(ragged_codes(), st.data())
def test_whatever_is_wrong_is_named(codes: RaggedCodes, data: st.DataObject) -> None:
    """The quick check would let a code pass that the careful one refuses, or refuse one without a reason."""
    for values, wrong in (
        (codes.latents, st.sampled_from([0, 1, 63, 64, 65_535])),
        (codes.weights, st.sampled_from([1.0, 2.5, 5.0, 0.0, -1.0, np.nan, np.inf, 1e-45])),
    ):
        if len(values) and data.draw(st.booleans()):
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(wrong)
    try:
        codec._refuse_codes(codes, "codes", HIDDEN_DIM)
    except InvalidVector:
        named = True
    else:
        named = False
    assert codec._are_codes(codes, HIDDEN_DIM) is not named


def test_neighbouring_codes_do_not_disturb_each_other() -> None:
    """Good codes would be refused because of the code before them."""
    codes = RaggedCodes(
        np.array([2, 0, 2], np.uint16), np.array([1, 2, 1, 2], np.uint16), np.array([1, 0.5, 3, 3], np.float32)
    )
    assert equal(codes_from_proto(codes_to_proto(codes, FINGERPRINT), "codes", 64, 2, FINGERPRINT), codes)


@given(st.binary(max_size=12), st.binary(max_size=24), st.binary(max_size=48), st.integers(0, 5))
def test_random_bytes_are_refused_or_valid(lengths: bytes, latents: bytes, weights: bytes, count: int) -> None:
    """Hostile messages would crash a server, or enter the store."""
    batch = vector_pb2.CodeBatch(
        count=count, lengths=lengths, latents=latents, weights=weights, fingerprint=FINGERPRINT
    )
    try:
        codes = codes_from_proto(batch, "codes", HIDDEN_DIM, 8, FINGERPRINT)
    except CsrError:
        return
    assert codes.lengths.max() <= 8
    assert np.isfinite(codes.weights).all()
    assert (codes.weights > 0).all()
    assert (codes.latents < HIDDEN_DIM).all()


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_random_embedding_bytes_are_refused_or_valid(values: bytes, count: int, dim: int) -> None:
    """Hostile counts would make a server allocate memory that no message holds."""
    batch = vector_pb2.EmbeddingBatch(count=count, dim=dim, values=values)
    try:
        embeddings = embeddings_from_proto(batch, "embeddings")
    except CsrError:
        return
    assert embeddings.nbytes == len(values)


def test_too_many_latents_and_other_models() -> None:
    """Documents would keep more than k_max latents, or latents of another model."""
    codes = RaggedCodes(np.array([3], np.uint16), np.array([1, 2, 3], np.uint16), np.array([3, 2, 1], np.float32))
    batch = codes_to_proto(codes, FINGERPRINT)
    with pytest.raises(LimitExceeded, match=r"codes\[0\]: 3 active latents, at most 2"):
        codes_from_proto(batch, "codes", HIDDEN_DIM, 2, FINGERPRINT)
    with pytest.raises(FingerprintMismatch, match="fingerprint"):
        codes_from_proto(batch, "codes", HIDDEN_DIM, 8, "cd" * 16)
    with pytest.raises(InvalidRequest, match="count: 0"):
        codes_from_proto(vector_pb2.CodeBatch(fingerprint=FINGERPRINT), "codes", HIDDEN_DIM, 8, FINGERPRINT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65_505.0, -1e30])
def test_what_float16_cannot_hold_is_refused(value: float) -> None:
    """A stored embedding would turn into infinity."""
    with pytest.raises(InvalidVector, match=r"embeddings\[1\]\[2\]"):
        check_embeddings(np.array([[1, 1, 1], [1, 1, value]], np.float32), "embeddings")


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=4),
        elements=st.sampled_from(
            [0.0, -0.0, 2.0**-25, -(2.0**-25), 1.5 * 2.0**-25, 2.0**-24, 65_504.0, 65_505.0, np.nan]
        ),
    )
)
def test_exactly_what_float16_holds_is_taken(embeddings: np.ndarray) -> None:
    """An embedding that is zero or infinite in the store would be taken, or a good one refused."""
    with np.errstate(over="ignore"):
        halves = embeddings.astype(np.float16)
    fine = bool((np.abs(embeddings) <= 65_504).all() and halves.any(axis=1).all())
    try:
        check_embeddings(embeddings, "embeddings")
    except InvalidVector:
        assert not fine
    else:
        assert fine


def test_the_largest_float16_is_fine() -> None:
    """Valid embeddings would be refused."""
    check_embeddings(np.array([[65_504.0, -65_504.0]], np.float32), "embeddings")


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_rows_without_a_direction_are_refused(value: float) -> None:
    """A cosine with such a row is not a number."""
    with pytest.raises(InvalidVector, match=r"embeddings\[1\]: all zeros"):
        check_embeddings(np.array([[1, 1], [value, value]], np.float32), "embeddings")
