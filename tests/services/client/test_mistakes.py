"""Mistakes that Python makes easy, found before anything is sent."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from services.client import AsyncClient, Client, Codes
from services.client.requests import search_request, upsert_requests
from services.runtime.errors import InvalidRequest

FINGERPRINT = "ab" * 16
NOWHERE = "127.0.0.1:9"
CODES = Codes(np.ones((1, 1), np.uint16), np.ones((1, 1), np.float32), FINGERPRINT)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda client: client.upsert("docs", "a", codes=CODES), "ids: one str"),
        (lambda client: client.delete("docs", "abc"), "ids: one str"),
        (lambda client: client.get("docs", "abc"), "ids: one str"),
        (lambda client: client.search("docs", texts="which card?"), "texts: one str"),
        (lambda client: client.upsert("docs", [7], codes=CODES), r"ids\[0\]: int, str is needed"),
        (lambda client: client.get("docs", ["a", "\ud800"]), r"ids\[1\]: '\\ud800' is not valid Unicode"),
        (lambda client: client.search("docs", codes=CODES, top_n=-1), "top_n: -1"),
        (lambda client: client.search("docs", codes=CODES, k=1 << 40), f"k: {1 << 40}"),
        (lambda client: client.search("docs", codes=CODES, rerank=1.5), r"rerank: 1\.5"),
        (lambda client: client.upsert("docs", ["a"], codes=CODES, versions=[-1]), r"versions\[0\]: -1"),
        (lambda client: client.delete("docs", ["a"], versions=[1 << 64]), r"versions\[0\]: "),
        (lambda client: client.search("docs", codes=CODES._replace(latents=np.ones((1, 1)))), "latents are float64"),
        (lambda client: client.create_collection("docs", "m", kind="code"), "kind: 'code', one of dense, codes"),
        (lambda client: client.create_collection("docs", "m", partitions=-1), "partitions: -1"),
    ],
)
def test_a_mistake_names_its_argument(call: Callable[..., object], text: str) -> None:
    """One text would be taken for as many as it has characters, or an error would not say what is wrong."""
    with Client(NOWHERE, timeout_seconds=1.0) as client, pytest.raises(InvalidRequest, match=text):
        call(client)

    async def asynchronously() -> None:
        async with AsyncClient(NOWHERE, timeout_seconds=1.0) as client:
            await call(client)  # type: ignore[misc]

    with pytest.raises(InvalidRequest, match=text):
        asyncio.run(asynchronously())


def test_numpy_arguments_are_fine() -> None:
    """Ids, versions and numbers out of data frames would be refused."""
    [request] = upsert_requests(
        "docs",
        np.array(["a"]),
        None,
        None,
        CODES,
        None,
        np.array([3]),
        "w",
        False,  # type: ignore[arg-type]
    )
    assert (list(request.ids), list(request.versions)) == (["a"], [3])
    asked = search_request("docs", None, None, CODES, np.int64(5), 0, 0, 0, None, 0, False, None, False)  # type: ignore[arg-type]
    assert asked.top_n == 5
