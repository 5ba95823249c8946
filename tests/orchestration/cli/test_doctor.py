"""csr doctor against real processes: healthy ones, and ones with real damage."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from orchestration.cli import app
from services.client import Client
from services.index.store.keys import partition_keys, partition_of
from tests.support.deployment import MODEL, Deployment, eventually
from tests.support.encoder_server import clustered
from tests.support.index_server import IndexServerProcess
from tests.support.proxy import TcpProxy

PARTITIONS = 16  # so many that both servers hold some
EMBEDDINGS = clustered(200, seed=61)
IDS = [f"d{row:03}" for row in range(200)]


class Clinic:
    """A deployment with snapshots, whose second index server reaches Redis through a proxy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deployment = Deployment(folder)
        url = self.deployment.redis.url
        self.proxy = TcpProxy(self.deployment.redis.port)
        self.deployment.index_servers = [
            IndexServerProcess(
                address,
                folder,
                name,
                CSR_INDEX__POLL_MAX_MS="5",
                CSR_REDIS__TIMEOUT_SECONDS="1",
                CSR_INDEX__SNAPSHOT_DIR=str(folder / f"{name}-snapshots"),
                CSR_INDEX__SNAPSHOT_SECONDS="0.5",
            )
            for name, address in (("index-0", url), ("index-1", self.proxy.redis_url))
        ]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """The module's deployment."""
    made = Clinic(tmp_path_factory.mktemp("clinic"))
    try:
        made.proxy.start()
        made.deployment.start()
        yield made
    finally:
        made.deployment.stop()
        made.proxy.stop()


@pytest.fixture
def client(clinic: Clinic) -> Iterator[Client]:
    """A client of it."""
    with clinic.deployment.client(timeout_seconds=30.0) as client:
        yield client


@pytest.fixture
def store(clinic: Clinic) -> Iterator["redis.Redis[bytes]"]:
    """Its Redis, behind the back of everybody."""
    with redis.Redis(port=clinic.deployment.redis.port) as store:
        yield store


@pytest.fixture
def collection(clinic: Clinic, client: Client) -> Iterator[str]:
    """A collection of 200 documents that all servers have."""
    name = "patient"
    client.create_collection(name, MODEL, partitions=PARTITIONS)
    client.upsert(name, IDS, embeddings=EMBEDDINGS, payloads=[{"id": id} for id in IDS], wait=True)
    yield name
    client.delete_collection(name)


@pytest.fixture
def doctor(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `csr doctor` in this process."""
    monkeypatch.setenv("REDIS_URL", clinic.deployment.redis.url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)

    return run


def findings(done: Result) -> list[dict[str, Any]]:
    """Return what a doctor found, with the exit code that belongs to it."""
    diagnosis = json.loads(done.stdout)
    assert done.exit_code == (1 if diagnosis["findings"] else 0)
    found: list[dict[str, Any]] = diagnosis["findings"]
    return found


def docs_key(client: Client, collection: str, id: str) -> tuple[int, str]:
    """Return the partition of a document, and the key of the hash that holds it."""
    collection_id = client.describe_collection(collection).collection.collection_id
    partition = partition_of(id, PARTITIONS)
    return partition, partition_keys(collection_id, partition).docs


def test_a_healthy_deployment_agrees(doctor: Callable[..., Result], client: Client, collection: str) -> None:
    """People would not trust an alarm that rings for nothing."""
    client.delete(collection, IDS[:20], wait=True)
    client.update_payloads(collection, IDS[30:40], [{}] * 10, wait=True)
    done = doctor("--json")
    assert findings(done) == []
    diagnosis = json.loads(done.stdout)
    assert (diagnosis["collections"], diagnosis["partitions"], diagnosis["documents"]) == (1, PARTITIONS, 180)
    assert diagnosis["compared"] >= 2 * PARTITIONS, "in Redis and in memory"
    said = doctor(collection)
    assert said.exit_code == 0
    assert "all agree" in said.stdout


def test_snapshots_are_compared_too(doctor: Callable[..., Result], client: Client, collection: str) -> None:
    """A snapshot that holds other documents would be noticed only after the next start."""

    def compared() -> int:
        done = doctor("--json")
        assert findings(done) == []
        number: int = json.loads(done.stdout)["compared"]
        return number

    eventually(lambda: compared() == 3 * PARTITIONS, 60.0)


def test_writes_are_no_differences(doctor: Callable[..., Result], client: Client, collection: str) -> None:
    """A doctor could be asked only while nobody writes, which is never."""
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            client.upsert(collection, IDS[:100], embeddings=EMBEDDINGS[:100])
            client.delete(collection, IDS[50:100])
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            before = written
            assert findings(doctor("--json")) == []
            assert written > before, "writes went on"
    finally:
        stop.set()
        writer.join()


def test_a_document_that_redis_lost_is_named(
    doctor: Callable[..., Result], client: Client, store: Any, collection: str
) -> None:
    """A document that is found but cannot be read any more would be noticed by users first."""
    partition, key = docs_key(client, collection, "d007")
    record = store.hget(key, "d007")
    store.hdel(key, "d007")
    (finding,) = findings(doctor("--json"))
    assert (finding["where"], finding["partition"], finding["collection"]) == ("redis", partition, collection)
    assert finding["ids"] == ["d007: missing"]
    table = doctor()
    assert table.exit_code == 1
    assert "d007: missing" in table.stdout
    store.hset(key, "d007", record)
    assert findings(doctor("--json")) == []


def test_a_damaged_record_is_named(doctor: Callable[..., Result], client: Client, store: Any, collection: str) -> None:
    """Damage in Redis would be noticed only when a server starts, and then stop it."""
    partition, key = docs_key(client, collection, "d011")
    record = store.hget(key, "d011")
    store.hset(key, "d011", record[:-1] + bytes([record[-1] ^ 1]))
    found = findings(doctor("--json"))
    assert {(finding["where"], finding["partition"]) for finding in found} == {("redis", partition)}
    assert "1 records fail their checksums" in [finding["problem"] for finding in found]
    assert any(text.startswith("d011") for finding in found for text in finding["ids"])


def test_an_outdated_record_is_named(
    doctor: Callable[..., Result], client: Client, store: Any, collection: str
) -> None:
    """A restored old record is intact by itself: only the digest of the partition shows that it is wrong."""
    _, key = docs_key(client, collection, "d013")
    outdated = store.hget(key, "d013")
    [before] = client.get(collection, ["d013"]).documents
    written = client.upsert(collection, ["d013"], embeddings=EMBEDDINGS[:1], wait=True)
    store.hset(key, "d013", outdated)
    (finding,) = findings(doctor("--json"))
    assert finding["where"] == "redis"
    assert finding["ids"] == [f"d013: version {before.version}, should be {written.results[0].version}"]


def test_a_log_that_says_something_else_is_noticed(
    doctor: Callable[..., Result], client: Client, store: Any, collection: str
) -> None:
    """A head of the log that was overwritten, as by a restored backup, would spread with the next load."""
    collection_id = client.describe_collection(collection).collection.collection_id
    store.hset(partition_keys(collection_id, 3).meta, "digest", "ab" * 20)
    found = findings(doctor("--json"))
    assert {finding["partition"] for finding in found} == {3}
    assert "redis" in {finding["where"] for finding in found}
    assert {"index-0", "index-1"} & {finding["where"] for finding in found}


def test_a_hole_in_the_log_is_noticed(
    doctor: Callable[..., Result], client: Client, store: Any, collection: str
) -> None:
    """Servers that are behind would load everything again, one after the other, before anybody knew why."""
    collection_id = client.describe_collection(collection).collection.collection_id
    assert store.xdel(partition_keys(collection_id, 5).log, "2-0") == 1
    found = findings(doctor("--json"))
    assert [(finding["where"], finding["partition"]) for finding in found if finding["where"] == "redis, log"] == [
        ("redis, log", 5)
    ]


def test_an_altered_snapshot_is_noticed(
    doctor: Callable[..., Result], clinic: Clinic, client: Client, collection: str
) -> None:
    """A snapshot with flipped bits would be noticed only when it is needed."""
    eventually(lambda: json.loads(doctor("--json").stdout)["compared"] == 3 * PARTITIONS, 60.0)
    for server in clinic.deployment.index_servers:
        for path in (clinic.folder / f"{server.name}-snapshots").rglob("*.npy"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 0x40
            path.write_bytes(content)
    found = findings(doctor("--json"))
    assert {finding["where"] for finding in found} <= {"index-0, snapshot", "index-1, snapshot"}
    assert len(found) == PARTITIONS
    assert all("cannot be read" in finding["problem"] for finding in found)


def test_a_server_that_lags_is_named(
    doctor: Callable[..., Result], clinic: Clinic, client: Client, collection: str
) -> None:
    """Searches of outdated documents would be noticed by users first."""
    clinic.proxy.lost_replies = 1.0
    try:
        time.sleep(1.5)
        client.upsert(collection, IDS, embeddings=EMBEDDINGS)
        found = findings(doctor("--json"))
        assert {finding["where"] for finding in found} == {"index-1"}
        assert all("entries behind" in finding["problem"] for finding in found)
    finally:
        clinic.proxy.lost_replies = 0.0
    eventually(lambda: findings(doctor("--json")) == [], 60.0)


def test_a_server_that_is_gone_is_named(
    doctor: Callable[..., Result], clinic: Clinic, client: Client, collection: str
) -> None:
    """A server that cannot be examined would pass for a healthy one."""
    clinic.deployment.index_servers[1].kill()
    found = findings(doctor("--json"))
    assert {finding["where"] for finding in found} == {"index-1"}
    assert all("cannot be examined" in finding["problem"] for finding in found)
    clinic.deployment.heal()
    assert findings(doctor("--json")) == []


def test_an_unknown_collection_is_refused(doctor: Callable[..., Result], clinic: Clinic) -> None:
    """A typo would be examined, and pass."""
    with pytest.raises(Exception, match="nowhere"):
        doctor("nowhere")
