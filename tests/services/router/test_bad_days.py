"""Processes die, hang and come back, in a deployment that these tests have for themselves."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from services.client import Client, SearchResult
from services.index.store.keys import partition_of
from services.runtime.errors import (
    DeadlineSpent,
    EncoderUnavailable,
    PartitionUnavailable,
    StoreUnavailable,
)
from tests.services.router.corpus import create_codes_collection, found, random_codes
from tests.support.deployment import MODEL, Deployment, eventually
from tests.support.encoder_server import clustered
from tests.support.index_server import IndexServerProcess

pytestmark = pytest.mark.robustness

QUERIES = random_codes(10, seed=2)
IDS = [f"d{row}" for row in range(200)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment that only this module hurts."""
    deployment = Deployment(tmp_path_factory.mktemp("bad-days"), CSR_REDIS__TIMEOUT_SECONDS="2")
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.stop()


@pytest.fixture
def hurt(shared: Deployment) -> Iterator[Deployment]:
    """The module's deployment, with 200 documents in a fresh collection `docs`, all visible."""
    with shared.client() as client:
        create_codes_collection(client, "docs", partitions=16)
        payloads = [{"row": row} for row in range(200)]
        token = client.upsert("docs", IDS, codes=random_codes(200, seed=1), payloads=payloads).token
        client.search("docs", codes=QUERIES, token=token)
    yield shared
    shared.heal()
    eventually(lambda: _emptied(shared), seconds=30.0)


def _emptied(deployment: Deployment) -> bool:
    """Delete all collections; on a busy machine Redis may still be slow just after what the test did."""
    with deployment.client(timeout_seconds=30.0) as client, suppress(StoreUnavailable):
        for collection in client.list_collections():
            client.delete_collection(collection.name)
        return True
    return False


@pytest.fixture
def patient(hurt: Deployment) -> Iterator[Client]:
    """A client that repeats until things are well again."""
    with hurt.client(timeout_seconds=30.0) as client:
        yield client


@pytest.fixture
def impatient(hurt: Deployment) -> Iterator[Client]:
    """A client that gives up soon."""
    with hurt.client(timeout_seconds=2.0) as client:
        yield client


def search(client: Client) -> SearchResult:
    """Ask the same ten queries as always, with payloads."""
    return client.search("docs", codes=QUERIES, include_payloads=True)


def test_a_killed_index_server_comes_back_with_the_same_answers(
    hurt: Deployment, patient: Client, impatient: Client
) -> None:
    """Users would get silently incomplete answers while a server is down, or others after it is back."""
    before = search(patient)
    hurt.index_servers[0].kill()
    with pytest.raises(PartitionUnavailable, match="index-0 at 127"):
        search(impatient)
    down = {process.name: process for process in patient.status().processes}
    assert not down["index-0"].ready
    assert down["index-1"].ready
    described = patient.describe_collection("docs")
    assert described.documents == 200
    assert {state.index_server for state in described.partitions if not state.ready} == {"index-0"}
    hurt.index_servers[0].start(wait=False)
    after = search(patient)  # retries until the server is back
    assert found(after) == found(before)
    assert after.hits == before.hits
    eventually(lambda: all(process.ready for process in patient.status().processes))


def test_reads_go_on_while_redis_is_down(hurt: Deployment, patient: Client, impatient: Client) -> None:
    """A restart of Redis would take search down, or lose acknowledged documents."""
    before = search(patient)
    hurt.redis.kill()
    time.sleep(1.0)  # let every process notice
    result = search(impatient)
    assert found(result) == found(before)
    assert result.receipt.payloads_missing
    assert all(hit.payload is None for hits in result.hits for hit in hits)
    assert not impatient.search("docs", codes=QUERIES).receipt.payloads_missing, "nobody asked for payloads"
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        impatient.upsert("docs", ["new"], codes=random_codes(1, seed=3), write_id="w")
    with pytest.raises(StoreUnavailable):
        impatient.get("docs", ["d1"])
    status = {process.name: process for process in patient.status().processes}
    assert not status["redis"].ready
    assert "Redis does not answer" in status["redis"].detail
    hurt.redis.start()
    written = patient.upsert("docs", ["new"], codes=random_codes(1, seed=3), write_id="w")
    assert [result.status for result in written.results] == ["applied"]
    assert patient.count("docs").count == 201
    read = patient.get("docs", IDS)
    assert [document.payload for document in read.documents] == [{"row": row} for row in range(200)]
    visible = patient.search("docs", codes=random_codes(1, seed=3), token=written.token, include_payloads=True)
    assert "new" in [hit.id for hit in visible.hits[0]]
    assert not visible.receipt.payloads_missing


def test_a_hanging_redis_costs_payloads_not_searches(hurt: Deployment, patient: Client) -> None:
    """A stalled disk under Redis would stall every search."""
    before = search(patient)
    hurt.redis.pause()
    try:
        with hurt.client(timeout_seconds=3.0) as client:
            started = time.monotonic()
            result = search(client)
            assert time.monotonic() - started < 2.5
            assert found(result) == found(before)
            assert result.receipt.payloads_missing
            started = time.monotonic()
            with pytest.raises((StoreUnavailable, DeadlineSpent)):
                client.upsert("docs", ["x"], codes=random_codes(1, seed=3))
            assert time.monotonic() - started < 3.5
    finally:
        hurt.redis.resume()
    eventually(lambda: not search(patient).receipt.payloads_missing)


def test_a_hanging_index_server_ends_at_the_deadline(hurt: Deployment) -> None:
    """A paused server would hang searches, or leave its partitions out of the answer."""
    hurt.index_servers[1].pause()
    try:
        with hurt.client(timeout_seconds=1.0) as client:
            started = time.monotonic()
            with pytest.raises(DeadlineSpent):
                search(client)
            assert time.monotonic() - started < 1.2
    finally:
        hurt.index_servers[1].resume()
    with hurt.client() as client:
        search(client)


def partial(client: Client) -> SearchResult:
    """Ask for what there is."""
    return client.search("docs", codes=QUERIES, top_n=200, include_payloads=True, allow_partial=True)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_a_partial_answer_has_everything_but_the_lost_partitions(
    hurt: Deployment, patient: Client, impatient: Client, how: str
) -> None:
    """Callers who take what there is would get nothing, too little, or not learn what is missing."""
    before = partial(patient)
    assert (before.receipt.coverage, before.receipt.missing_partitions) == (1.0, [])
    described = patient.describe_collection("docs")
    lost = [state.partition for state in described.partitions if state.index_server == "index-1"]
    (hurt.index_servers[1].kill if how == "killed" else hurt.index_servers[1].pause)()
    started = time.monotonic()
    answer = partial(impatient)
    assert time.monotonic() - started < 2.0
    assert answer.receipt.missing_partitions == lost
    assert answer.receipt.coverage == 1 - len(lost) / 16
    assert set(answer.receipt.token.positions) == set(range(16)) - set(lost)
    left = [[hit for hit in hits if partition_of(hit.id, 16) not in lost] for hits in before.hits]
    assert answer.hits == left
    if how == "hanging":
        hurt.index_servers[1].resume()
    else:
        with pytest.raises(PartitionUnavailable):
            search(impatient)
    hurt.index_servers[0].kill()
    if how == "killed":
        with pytest.raises(PartitionUnavailable, match="index-"):
            partial(impatient)


def test_without_the_encoder_codes_are_still_found(hurt: Deployment, patient: Client, impatient: Client) -> None:
    """An encoder outage would take down applications that bring their own codes."""
    patient.create_collection("dense", MODEL)
    embeddings = clustered(20, seed=1)
    token = patient.upsert("dense", IDS[:20], embeddings=embeddings).token
    before = patient.search("dense", embeddings=embeddings[:3], token=token)
    hurt.encoder.stop()
    for refused in (
        lambda: impatient.search("dense", embeddings=embeddings[:3]),
        lambda: impatient.search("dense", texts=["hello"]),
        lambda: impatient.upsert("dense", ["x"], embeddings=embeddings[:1]),
        lambda: impatient.create_collection("other", MODEL),
    ):
        with pytest.raises(EncoderUnavailable, match="encoder"):
            refused()
    assert search(patient).hits
    assert not next(process for process in patient.status().processes if process.name == "encoder").ready
    assert patient.get("dense", ["x"]).missing == ["x"]
    hurt.encoder.start()
    assert found(patient.search("dense", embeddings=embeddings[:3])) == found(before)


def test_a_router_follows_a_changed_placement(hurt: Deployment, patient: Client, tmp_path: Path) -> None:
    """After servers were added or removed, searches would go to servers that no longer hold the documents."""
    before = search(patient)
    added = IndexServerProcess(hurt.redis.url, tmp_path, "index-2", CSR_INDEX__POLL_MAX_MS="5")
    added.start()
    try:
        for servers in ([*hurt.index_servers, added], [added], hurt.index_servers):
            hurt.place(servers)
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                assert found(search(patient)) == found(before)
            names = [process.name for process in patient.status().processes if process.name.startswith("index")]
            assert names == [server.name for server in servers]
    finally:
        hurt.place(hurt.index_servers)
        added.kill()


def test_a_restarted_router_answers_as_before(hurt: Deployment, patient: Client) -> None:
    """The router would hold state that dies with it."""
    before = search(patient)
    hurt.router.kill()
    hurt.router.start(wait=False)
    assert search(patient).hits == before.hits


def test_a_router_that_starts_before_redis_waits_for_it(hurt: Deployment, impatient: Client) -> None:
    """After a power cut, the order in which processes start would matter."""
    hurt.redis.kill()
    hurt.router.kill()
    hurt.router.start(wait=False)
    eventually(lambda: "router listens" in hurt.router.log.read_text().rpartition("router stops")[2])
    time.sleep(1.0)
    assert not hurt.router.serving()
    with pytest.raises((StoreUnavailable, PartitionUnavailable)):
        search(impatient)
    hurt.redis.start()
    hurt.router.wait_until_serving()
    assert search(impatient).hits


def test_sigterm_lets_requests_finish(hurt: Deployment, patient: Client) -> None:
    """A rolling update of the router would break requests in flight."""
    before = search(patient)
    slow = hurt.index_servers[0]
    slow.pause()
    try:
        with ThreadPoolExecutor(2) as threads:
            in_flight = threads.submit(search, patient)
            time.sleep(0.5)
            stopping = threads.submit(hurt.router.stop)
            time.sleep(0.5)
            slow.resume()
            assert in_flight.result().hits == before.hits
            assert stopping.result() == 0
    finally:
        slow.resume()
