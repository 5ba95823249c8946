"""Weights that become equal when a code is scaled to length 1, after its latents were ordered."""

from collections.abc import Callable

import numpy as np

from services.index.store.catalog import CollectionRecord
from services.router.write_request import stored_codes
from services.runtime.codec import RaggedCodes, codes_to_proto
from tests.services.router.corpus import FINGERPRINT


def scaled(latents: list[int], weights: list[np.float32]) -> RaggedCodes:
    """Return one code, scaled to length 1 in float32 as adapters do."""
    whole = np.array(weights, np.float32)
    norm = np.sqrt((whole**2).sum(dtype=np.float32))
    return RaggedCodes(np.array([len(latents)], np.uint16), np.array(latents, np.uint16), whole / norm)


def test_codes_whose_weights_meet_are_stored_like_any_other(new_record: Callable[..., CollectionRecord]) -> None:
    """Documents would be refused by chance, with all others of their request, whatever the client does."""
    largest = np.float32(3.9999998)
    code = scaled([9, 4, 1], [largest, np.nextafter(largest, np.float32(0)), np.float32(2.25)])
    assert code.weights[0] == code.weights[1], "the case of this test"
    generation = new_record().active
    [stored] = stored_codes(codes_to_proto(code, FINGERPRINT), "encoder", generation, 8)
    assert stored.latents.tolist() == [4, 9, 1]
    in_order = RaggedCodes(code.lengths, np.array([4, 9, 1], np.uint16), code.weights)
    [same] = stored_codes(codes_to_proto(in_order, FINGERPRINT), "encoder", generation, 8)
    assert (same.latents.tolist(), same.weights.tolist()) == (stored.latents.tolist(), stored.weights.tolist())
