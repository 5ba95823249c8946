"""Mistakes that Python makes easy, found before anything is sent."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from services.client import AsyncClient, Batch, Client, Codes, Eq, In, Range
from services.client.searches import search_request
from services.client.writes import upsert_requests
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
        (lambda client: client.create_collection("docs", "m", fields={"a": "text"}), r"fields\['a'\]: 'text', one of"),
        (lambda client: client.search("docs", codes=CODES, ids=["a"]), "ids: exactly one of them is needed, not 2"),
        (lambda client: client.search("docs", ids="abc"), "ids: one str"),
        (lambda client: client.search("docs", codes=CODES, where={"a": 1}), "where: dict is no filter"),
        (lambda client: client.count("docs", where=In("a", "abc")), "where: values of 'a' are one str"),
        (
            lambda client: client.count("docs", where=Eq("a", 1 << 63)),
            "value of 'a': 9223372036854775808, a",
        ),
        (lambda client: client.count("docs", where=Eq("a", None)), "where: value of 'a': None, a str"),
        (lambda client: client.count("docs", where=Range("a", gt=(1 << 53) + 1)), "bound of 'a': 9007199254740993, a"),
        (lambda client: client.delete_where("docs", Range("a", gt="7")), "bound of 'a': '7', a number"),
        (lambda client: client.delete_where("docs", Eq("a", 7), version=-1), r"versions\[0\]: -1"),
        (lambda client: client.explain("docs", "abc", codes=CODES), "ids: one str"),
        (lambda client: client.explain("docs", ["a"], query_id=7), r"query_id\[0\]: int, str"),
        (lambda client: client.scroll_page("docs", limit=-1), "limit: -1"),
        (lambda client: client.update_payloads("docs", ["a"], []), "payloads: 0 for 1 ids"),
        (lambda client: client.update_payloads("docs", ["a"], [{"x": {1}}]), r"payloads\[0\]: not JSON"),
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
    batch = Batch(np.array(["a"]), codes=CODES, versions=np.array([3]))  # type: ignore[arg-type]
    [request] = upsert_requests("docs", batch, "w", allow_truncation=False, wait=False)
    assert (list(request.ids), list(request.versions)) == (["a"], [3])
    asked = search_request("docs", codes=CODES, top_n=np.int64(5))  # type: ignore[arg-type]
    assert asked.top_n == 5
