"""The store answers late, loses connections, and is gone for a minute: searches do not notice, writes fail in time."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from services.client import Client
from services.runtime.errors import CsrError, DeadlineSpent, StoreUnavailable
from services.runtime.redis_binary import find_redis_server
from tests.robustness.corpus import Corpus
from tests.robustness.load import create_collection, read_documents
from tests.support.deployment import Deployment
from tests.support.measured import Measured
from tests.support.proxy import TcpProxy
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.robustness

DOCUMENTS = 1_000
WRITE_SECONDS = 1.5
"""Deadline of a write."""
HEAL_SECONDS_MAX = 10.0
GROWTH_BYTES_MAX = 50 << 20


@dataclass(frozen=True)
class Duration:
    """How long each trouble lasts, and what is demanded of the times; little where other work shares the machine.

    Attributes:
        seconds: Of each trouble, and of the good times before and after.
        percentile: Of search times, which is compared with that in good times.
        share: What it may be then, as a share of that.
        slack_seconds: On top of it.
        late_seconds: How long after its deadline a write may fail.
    """

    seconds: float
    percentile: float
    share: float
    slack_seconds: float
    late_seconds: float


@dataclass
class Seen:
    """What a thread saw: times and failures of its requests, what it wrote, wrong answers, the worst staleness told."""

    seconds: list[float] = field(default_factory=list)
    errors: list[CsrError] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    wrong: int = 0
    staleness: float = 0.0


Step = Callable[[Client, Seen], None]


class Clients:
    """One that searches a collection which does not change, and one that writes to another."""

    def __init__(self, deployment: Deployment, corpus: Corpus) -> None:
        self._deployment = deployment
        self._corpus = corpus
        self._queries = corpus.queries(range(8))
        self.searched, self.written = (f"c-{uuid.uuid4().hex[:12]}" for _ in range(2))
        ids = [f"d{number}" for number in range(DOCUMENTS)]
        with deployment.client(timeout_seconds=60.0) as client:
            create_collection(client, self.searched)
            create_collection(client, self.written)
            token = client.upsert(self.searched, ids, codes=corpus.codes(range(DOCUMENTS))).token
            self.right = client.search(self.searched, codes=self._queries, token=token).hits

    @contextmanager
    def working(self) -> Iterator[tuple[Seen, Seen]]:
        """Search and write while the block runs; what both saw is complete after it."""
        stop = threading.Event()
        seen = Seen(), Seen()
        threads = [
            threading.Thread(target=self._repeat, args=(stop, step, outcome, timeout))
            for step, outcome, timeout in ((self._search, seen[0], 10.0), (self._write, seen[1], WRITE_SECONDS))
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def write(self, client: Client, id: str) -> None:
        """Store one document under an id of its own."""
        client.upsert(self.written, [id], codes=self._corpus.codes([1]), payloads=[{"code": 1}])

    def missing(self, ids: list[str]) -> list[str]:
        """Return those of these written documents that are not there."""
        with self._deployment.client(timeout_seconds=30.0) as client:
            found = read_documents(client, self.written, self._corpus, ids)
        return [id for id in ids if found.get(id, (0, 0))[1] != 1]

    def _repeat(self, stop: threading.Event, step: Step, seen: Seen, timeout: float) -> None:
        with self._deployment.client(timeout_seconds=timeout) as client:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    step(client, seen)
                except CsrError as error:
                    seen.errors.append(error)
                seen.seconds.append(time.monotonic() - began)

    def _search(self, client: Client, seen: Seen) -> None:
        answer = client.search(self.searched, codes=self._queries)
        seen.wrong += answer.hits != self.right
        seen.staleness = max(seen.staleness, answer.receipt.staleness_seconds)

    def _write(self, client: Client, seen: Seen) -> None:
        id = uuid.uuid4().hex
        time.sleep(0.02)
        self.write(client, id)
        seen.written.append(id)


def rss(deployment: Deployment) -> int:
    """Return the memory of router and index servers, in bytes."""
    processes = (process.process for process in (deployment.router, *deployment.index_servers))
    return sum(psutil.Process(process.pid).memory_info().rss for process in processes if process is not None)


@pytest.mark.parametrize(
    "duration",
    [
        pytest.param(Duration(6.0, 50, 3.0, 0.1, 3.0), id="short"),
        pytest.param(
            Duration(60.0, 99, 1.2, 0.003, 0.5), id="long", marks=[pytest.mark.slow, pytest.mark.timeout(900)]
        ),
    ],
)
def test_searches_do_not_wait_for_a_store_in_trouble(tmp_path: Path, duration: Duration, measured: Measured) -> None:
    """Searches would be slow or fail whenever the store is, or writes would hang and pile up in memory."""
    redis = RedisServer(find_redis_server(), tmp_path / "redis")
    proxy = TcpProxy(redis.port)
    deployment = Deployment(tmp_path, redis=redis, REDIS_URL=proxy.redis_url)
    proxy.start()
    try:
        deployment.start()
        clients = Clients(deployment, Corpus(seed=41))
        with clients.working() as (before, _):
            time.sleep(duration.seconds)
        memory = rss(deployment)

        with clients.working() as (slow, slow_writes):
            proxy.delay_seconds = 0.2
            time.sleep(duration.seconds / 2)
            for _ in range(int(duration.seconds / 4)):
                proxy.reset()
                time.sleep(2.0)
        proxy.delay_seconds = 0.0

        redis.kill()
        with clients.working() as (gone, gone_writes):
            time.sleep(duration.seconds)
        growth = rss(deployment) - memory

        redis.start()
        began = time.monotonic()
        with deployment.client(timeout_seconds=60.0) as client:
            clients.write(client, "healed")
        healed = time.monotonic() - began
        with clients.working() as (after, after_writes):
            time.sleep(duration.seconds / 2)
        missing = clients.missing(["healed", *slow_writes.written, *after_writes.written])
    finally:
        deployment.stop()
        proxy.stop()
    good, late, absent = (
        float(np.percentile(seconds, duration.percentile))
        for seconds in (before.seconds + after.seconds, slow.seconds, gone.seconds)
    )
    measured(
        f"p{duration.percentile} of searches {1_000 * good:.1f} ms; store slow and resetting {1_000 * late:.1f} ms; "
        f"store gone for {duration.seconds:.0f} s {1_000 * absent:.1f} ms; {len(gone_writes.errors)} writes failed "
        f"after at most {max(gone_writes.seconds):.2f} s (deadline {WRITE_SECONDS} s), answers said they were up to "
        f"{gone.staleness:.0f} s old; memory {growth / 2**20:+.0f} MiB; healed in {healed:.1f} s"
    )
    assert [(seen.errors, seen.wrong) for seen in (before, slow, gone, after)] == 4 * [([], 0)]
    assert gone.staleness >= 0.9 * duration.seconds > before.staleness
    assert max(late, absent) <= duration.share * good + duration.slack_seconds
    assert slow_writes.written, "a slow store still takes writes"
    assert gone_writes.written == []
    assert {type(error) for error in gone_writes.errors} <= {StoreUnavailable, DeadlineSpent}
    assert max(gone_writes.seconds + slow_writes.seconds) < WRITE_SECONDS + duration.late_seconds
    assert growth < GROWTH_BYTES_MAX
    assert healed < HEAL_SECONDS_MAX
    assert len(after_writes.errors) <= len(after_writes.written) / 20, "a busy machine costs few writes their deadline"
    assert missing == []
