"""Collections that another router deletes or replaces, seen from one that has not looked for a while."""

from collections.abc import Callable, Iterator

import pytest

from services.client import Batch, Client, Codes, Eq
from services.runtime.errors import InvalidRequest, UnknownCollection, WrongState
from tests.services.router.corpus import create_codes_collection, random_codes
from tests.support.deployment import Deployment
from tests.support.service_process import ServiceProcess

CODES = random_codes(1, seed=1)


@pytest.fixture(scope="module")
def late_router(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A second router of the deployment, which by itself would not notice anything for minutes."""
    router = ServiceProcess(
        "router",
        "late-router",
        tmp_path_factory.mktemp("late-router"),
        REDIS_URL=deployment.redis.url,
        CSR_ENCODER__ADDRESS=deployment.encoder.address,
        CSR_ROUTER__REFRESH_SECONDS="600",
    )
    try:
        router.start()
        yield router
    finally:
        router.kill()


@pytest.fixture
def late(late_router: ServiceProcess) -> Iterator[Client]:
    """A client of the second router."""
    with Client(late_router.address, timeout_seconds=10.0) as client:
        yield client


@pytest.fixture
def known(client: Client, late: Client, name: str) -> str:
    """A collection of one document that both routers know."""
    create_codes_collection(client, name)
    client.upsert(name, ["old"], codes=CODES)
    assert late.count(name).count == 1
    return name


CALLS: dict[str, Callable[[Client, str], object]] = {
    "upsert": lambda client, name: client.upsert(name, ["new"], codes=CODES),
    "delete": lambda client, name: client.delete(name, ["old"]),
    "get": lambda client, name: client.get(name, ["old"]),
    "count": lambda client, name: client.count(name),
}


@pytest.mark.parametrize("call", ["upsert", "delete", "get", "count"])
def test_a_deleted_collection_is_unknown(client: Client, late: Client, known: str, call: str) -> None:
    """What a caller is told would depend on which router answers."""
    client.delete_collection(known)
    with pytest.raises(UnknownCollection):
        CALLS[call](late, known)


def test_a_token_is_good_for_every_router(client: Client, late: Client, known: str) -> None:
    """After a collection was replaced, searches would be refused by every other router for a while."""
    client.delete_collection(known)
    create_codes_collection(client, known)
    token = client.upsert(known, ["new"], codes=CODES).token
    assert [hit.id for hit in late.search(known, codes=CODES, token=token).hits[0]] == ["new"]


def test_writes_and_reads_reach_the_new_collection(client: Client, late: Client, known: str) -> None:
    """Documents would be missing, or writes refused, because another router replaced the collection."""
    client.delete_collection(known)
    create_codes_collection(client, known)
    client.upsert(known, ["a"], codes=CODES)
    assert [document.id for document in late.get(known, ["a"]).documents] == ["a"]
    client.delete_collection(known)
    create_codes_collection(client, known)
    written = late.upsert(known, ["b"], codes=CODES)
    assert [result.status for result in written.results] == ["applied"]
    assert written.token.collection_id == client.describe_collection(known).collection.collection_id
    client.delete_collection(known)
    create_codes_collection(client, known)
    assert late.count(known).count == 0


def test_what_a_fresh_look_does_not_change_is_told(client: Client, late: Client, known: str) -> None:
    """A token of a collection that is gone would make every router search for ever, or be ignored."""
    token = client.count(known).token
    client.delete_collection(known)
    create_codes_collection(client, known)
    for _ in range(2):
        with pytest.raises(WrongState, match="token"):
            late.search(known, codes=CODES, token=token)


def test_what_a_replaced_collection_takes_is_told_by_the_new_one(client: Client, late: Client, known: str) -> None:
    """Codes of the new model and filters over new fields would be refused by every other router for a while."""
    client.delete_collection(known)
    create_codes_collection(client, known, fingerprint="cd" * 16, fields={"lang": "keyword"})
    codes = Codes(CODES.latents, CODES.weights, "cd" * 16)
    written = late.upsert(known, ["new"], codes=codes, payloads=[{"lang": "de"}])
    assert [result.status for result in written.results] == ["applied"]
    client.delete_collection(known)
    create_codes_collection(client, known, fields={"year": "int"})
    assert late.count(known, where=Eq("year", 2020)).count == 0
    with pytest.raises(InvalidRequest, match="'lang' is not declared"):
        late.count(known, where=Eq("lang", "de"))


def test_a_stream_is_opened_for_the_new_collection(client: Client, late: Client, known: str) -> None:
    """A bulk load right after its collection was replaced would fail as if that had happened under its hands."""
    client.delete_collection(known)
    create_codes_collection(client, known)
    (result,) = late.upsert_stream(known, [Batch(["new"], codes=CODES)])
    assert [write.status for write in result.results if write is not None] == ["applied"]
    assert late.count(known).count == 1
