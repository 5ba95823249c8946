import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.index.store.catalog import GenerationRecord
from services.router.write_request import rows_by_partition, stored_codes, write_error
from services.runtime.codec import RaggedCodes, codes_to_proto
from services.runtime.errors import CorruptRecord, StoreFull, StoreUnavailable, WrongState
from tests.services.index.core import oracle
from tests.services.router.corpus import FINGERPRINT


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=50), st.integers(1, 256))
def test_every_id_goes_to_the_partition_of_its_hash(ids: list[str], partitions: int) -> None:
    """A document would be written where reads do not look for it."""
    rows = rows_by_partition(ids, partitions)
    assert sorted(row for members in rows.values() for row in members) == list(range(len(ids)))
    for partition, members in rows.items():
        assert all(zlib.crc32(ids[row].encode()) % partitions == partition for row in members)


def test_codes_are_normalised_and_quantised_as_the_index_scores_them() -> None:
    """Stored weights would differ from those that scores are defined on."""
    given_codes = [([5, 2, 9], [3.0, 2.0, 1e-6]), ([], []), ([7], [1e30]), ([0, 1], [0.5, 0.5])]
    lengths = np.array([len(latents) for latents, _ in given_codes], np.uint16)
    latents = np.concatenate([np.array(latents, np.uint16) for latents, _ in given_codes])
    weights = np.concatenate([np.array(weights, np.float32) for _, weights in given_codes])
    generation = GenerationRecord(1, "active", "adapter", 1, FINGERPRINT, 64)
    batch = codes_to_proto(RaggedCodes(lengths, latents, weights), FINGERPRINT)
    stored = [
        list(zip(code.latents.tolist(), code.weights.tolist(), strict=True))
        for code in stored_codes(batch, "codes", generation, 8)
    ]
    assert stored[1] == []
    assert [stored[row] for row in (0, 2, 3)] == [oracle.stored_code(*given_codes[row]) for row in (0, 2, 3)]


def test_an_unknown_outcome_outweighs_a_refusal() -> None:
    """A caller would take a write for refused that may have happened."""
    error = write_error([StoreFull("full"), StoreUnavailable("no answer")], done=3, write_id="w1")
    assert isinstance(error, StoreUnavailable)
    assert "the outcome is unknown: repeat the request with write_id 'w1'" in str(error)


def test_a_partial_refusal_says_how_much_was_written() -> None:
    """A caller would not know that part of a refused write is stored."""
    error = write_error([StoreFull("full"), StoreFull("full")], done=3, write_id="w1")
    assert isinstance(error, StoreFull)
    assert "3 of 5 partitions were written" in str(error)
    assert "'w1'" in str(error)


def test_a_whole_refusal_is_passed_on() -> None:
    """A caller would be told to repeat a write that can never succeed."""
    refusal = WrongState("closed")
    assert write_error([refusal, CorruptRecord("x")], done=0, write_id="w1") is refusal


def test_a_bug_is_not_dressed_up() -> None:
    """A bug would reach callers as an error that asks them to retry for ever."""
    bug = KeyError("x")
    assert write_error([StoreUnavailable("no answer"), bug], done=0, write_id="w1") is bug


@pytest.mark.parametrize("partitions", [1, 16])
def test_rows_keep_their_order_within_a_partition(partitions: int) -> None:
    """Chunks of a repeated write would differ from those of the first attempt."""
    rows = rows_by_partition([f"d{number}" for number in range(200)], partitions)
    assert all(members == sorted(members) for members in rows.values())
