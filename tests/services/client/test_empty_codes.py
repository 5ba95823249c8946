import numpy as np
import pytest

from services.client import Codes
from services.client.searches import search_request
from services.runtime.codec import codes_from_proto

FINGERPRINT = "ab" * 16


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [0, 2])
def test_codes_without_any_latent_can_be_sent(rows: int, width: int) -> None:
    """Empty codes are legal, but a batch of nothing else would break the client or lose its rows."""
    codes = Codes(np.zeros((rows, width), np.uint16), np.zeros((rows, width), np.float32), FINGERPRINT)
    request = search_request("docs", codes=codes, top_n=1)
    assert codes_from_proto(request.codes, "codes", 64, 8, FINGERPRINT).lengths.tolist() == [0] * rows
