"""The disk under the store is full for a while: nothing acknowledged is lost, searches go on, writes come back."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.client import Client, Codes
from services.runtime.errors import CsrError, DeadlineSpent, StoreFull, StoreUnavailable
from tests.robustness.corpus import Corpus
from tests.robustness.full_disk import DISK_BYTES, SmallDisk, SmallFiles, SmallFileSystem, may_mount
from tests.robustness.load import create_collection, read_documents
from tests.support.deployment import Deployment
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.robustness

FULL_SECONDS = 4.0
HEAL_SECONDS_MAX = 10.0
PAYLOAD = {"code": 1, "ballast": "x" * 50_000}


class Searcher:
    """Searches a collection that does not change, in a thread."""

    def __init__(self, deployment: Deployment, corpus: Corpus) -> None:
        self._deployment = deployment
        self._queries: Codes = corpus.queries(range(4))
        self._name = f"c-{uuid.uuid4().hex[:12]}"
        self.right, self.wrong, self.errors = 0, 0, list[CsrError]()
        with deployment.client(timeout_seconds=60.0) as client:
            create_collection(client, self._name)
            token = client.upsert(self._name, [f"d{n}" for n in range(200)], codes=corpus.codes(range(200))).token
            self._hits = client.search(self._name, codes=self._queries, token=token).hits

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search while the block runs."""
        stop = threading.Event()

        def work() -> None:
            with self._deployment.client(timeout_seconds=5.0) as client:
                while not stop.wait(0.02):
                    try:
                        same = client.search(self._name, codes=self._queries).hits == self._hits
                    except CsrError as error:
                        self.errors.append(error)
                    else:
                        self.right += same
                        self.wrong += not same

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def supervised(store: RedisServer) -> Iterator[None]:
    """Start the store again whenever it has ended, as a supervisor would."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.3):
            if not store.running:
                store.start(wait=False)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write_one(client: Client, name: str, corpus: Corpus, acknowledged: list[str]) -> CsrError | None:
    """Store one document; return why that failed, if it did."""
    id = uuid.uuid4().hex
    try:
        client.upsert(name, [id], codes=corpus.codes([1]), payloads=[PAYLOAD])
    except CsrError as error:
        return error
    acknowledged.append(id)
    return None


def fill_wait_and_heal(
    disk: SmallDisk, deployment: Deployment, name: str, corpus: Corpus
) -> tuple[list[str], list[CsrError], float]:
    """Write until the disk is full and for a while after that, then make room.

    Returns:
        Ids that were acknowledged, errors while the disk was full, and seconds until a write succeeded again.
    """
    acknowledged: list[str] = []
    errors: list[CsrError] = []
    with deployment.client(timeout_seconds=1.0) as client:
        while not errors:
            error = write_one(client, name, corpus, acknowledged)
            errors += [error] if error else []
            assert len(acknowledged) * 50_000 < 4 * DISK_BYTES, "the disk was never full"
        deadline = time.monotonic() + FULL_SECONDS
        while time.monotonic() < deadline:
            error = write_one(client, name, corpus, acknowledged)
            errors += [error] if error else []
        disk.grow()
        began = time.monotonic()
        while write_one(client, name, corpus, acknowledged):
            assert time.monotonic() < began + 60.0, "writes never came back"
        return acknowledged, errors, time.monotonic() - began


@pytest.mark.parametrize(
    "mounted", [pytest.param(True, id="disk"), pytest.param(False, id="file-size", marks=pytest.mark.slow)]
)
def test_a_full_disk_loses_nothing(tmp_path: Path, mounted: bool, measured: Measured) -> None:
    """Users would lose confirmed documents when a disk fills up, or could not search until somebody makes room."""
    corpus = Corpus(seed=71)
    disk: SmallDisk = SmallFileSystem(tmp_path) if mounted and may_mount(tmp_path) else SmallFiles(tmp_path)
    deployment = Deployment(tmp_path, redis=disk.store)
    name = f"c-{uuid.uuid4().hex[:12]}"
    try:
        deployment.start()
        searcher = Searcher(deployment, corpus)
        with deployment.client(timeout_seconds=60.0) as client:
            create_collection(client, name)
        with searcher.searching(), supervised(disk.store):
            acknowledged, errors, healed = fill_wait_and_heal(disk, deployment, name, corpus)
        with deployment.client(timeout_seconds=60.0) as client:
            found = read_documents(client, name, corpus, acknowledged)
            count = client.count(name).count
    finally:
        deployment.stop()
        disk.remove()
    measured(
        f"{type(disk).__name__}: {len(acknowledged)} acknowledged writes, {len(acknowledged) - len(found)} lost, "
        f"{len(errors)} refused; {searcher.right} searches right; writes again after {healed:.1f} s"
    )
    assert sorted(found) == sorted(acknowledged)
    assert count <= len(acknowledged) + len(errors)
    assert {type(error) for error in errors} <= {StoreFull, StoreUnavailable, DeadlineSpent}
    assert searcher.right > 50, "void: too few searches to prove anything"
    assert (searcher.wrong, searcher.errors) == (0, [])
    assert healed < HEAL_SECONDS_MAX
