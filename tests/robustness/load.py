"""Clients that write, search, read and count without pause, and record all of it."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
import numpy as np

from services.client import Client, Document, Token, WriteResult
from services.client.types import Versioning
from services.runtime.errors import CsrError, status_of
from tests.robustness.corpus import FINGERPRINT, HIDDEN_DIM, K_MAX, Corpus
from tests.robustness.history import DAMAGED, DELETED, Count, Operation, Outcome, Read, Recording, Search, Write

PARTITIONS = 4
DOCUMENTS_PER_WRITE = 32
QUERIES_PER_SEARCH = 16
ATTEMPT_SECONDS = 3.0
"""Longest that one attempt takes, so that few operations wait for a process that died."""
PACE_SECONDS = 0.04
"""Least time between two operations of a client: half an hour on a fast machine must fit into memory."""
WRITE_SECONDS_MAX = 120.0
"""Longest that a write is repeated; after that the service does not heal."""


class Load:
    """Several clients of one collection of kind codes.

    Attributes:
        name: Of the collection.
        operations: Everything that was answered, see history.py.
        errors: What was not, by status code.
        wrong: Errors that nobody should see whatever dies.
        partial_answers: How many searches that allow it were answered without all partitions.
        worked: Seconds that the clients have worked.
    """

    def __init__(self, address: str, corpus: Corpus, seed: int, versioning: Versioning = "assigned") -> None:
        self.name = f"load-{uuid.uuid4().hex[:12]}"
        self.operations: list[Operation] = []
        self.errors: Counter[grpc.StatusCode] = Counter()
        self.wrong: list[CsrError] = []
        self.partial_answers = 0
        self.worked = 0.0
        self._address = address
        self._corpus = corpus
        self._versioning: Versioning = versioning
        self._random = random.Random(seed)
        self._ids = [f"dok-ü{number}" for number in range(1_200)]
        self._stop = threading.Event()
        self._failures: list[BaseException] = []

    def create(self) -> None:
        """Create the collection."""
        with Client(self._address) as client:
            create_collection(client, self.name, versioning=self._versioning)

    @contextmanager
    def working(self, clients: int = 3) -> Iterator[None]:
        """Work while the block runs, and until every write that was begun is acknowledged."""
        self._stop.clear()
        threads = [threading.Thread(target=self._work, args=(self._random.random(),)) for _ in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.worked += time.monotonic() - began
            self._stop.set()
            for thread in threads:
                thread.join()
        for failure in self._failures:
            raise failure

    def fill_log(self, total_bytes: int) -> None:
        """Write documents with payloads of this many bytes together, one request after another."""
        ballast_bytes = 30_000
        with Client(self._address) as client:
            for _ in range(0, total_bytes, ballast_bytes * DOCUMENTS_PER_WRITE):
                ids = self._random.sample(self._ids, DOCUMENTS_PER_WRITE)
                codes = [self._random.randrange(len(self._corpus.stored)) for _ in ids]
                write, _ = write_until_acknowledged(
                    client, self.name, self._corpus, ids, codes, [], uuid.uuid4().hex, ballast_bytes=ballast_bytes
                )
                self.operations.append(write)

    @property
    def rate(self) -> float:
        """Documents written or read, queries and counts that were answered, per second of work."""
        return sum(_size(operation) for operation in self.operations) / self.worked

    def summary(self) -> str:
        """Return how many requests of each kind were answered, and how many attempts failed."""
        counts = Counter(type(operation).__name__ for operation in self.operations)
        failed = Counter({code.name: number for code, number in self.errors.items()})
        failed["partial answer"] = self.partial_answers
        return ", ".join(f"{number} x {name}" for name, number in sorted((counts + failed).items()))

    def recording(self) -> Recording:
        """Return all of it, with what the collection holds now."""
        with Client(self._address) as client:
            final = read_documents(client, self.name, self._corpus, self._ids)
            return Recording(PARTITIONS, list(self.operations), final)

    def _work(self, seed: float) -> None:
        try:
            with Client(self._address, ATTEMPT_SECONDS) as client:
                worker = _Worker(self, client, self._corpus, random.Random(seed))
                while not self._stop.is_set():
                    due = time.monotonic() + PACE_SECONDS
                    worker.do_something()
                    self._stop.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self._failures.append(error)


class _Worker:
    def __init__(self, load: Load, client: Client, corpus: Corpus, rng: random.Random) -> None:
        self._load = load
        self._client = client
        self._corpus = corpus
        self._random = rng
        self._token = Token("", {})

    def do_something(self) -> None:
        """Carry out one operation; one that fails, unless it writes, is counted and forgotten."""
        operation = self._random.choices((self._write, self._search, self._read, self._count), weights=(40, 45, 12, 3))[
            0
        ]
        try:
            self._load.operations.append(operation())
        except CsrError as error:
            self._failed(error)

    def _write(self) -> Write:
        ids = self._random.sample(self._load._ids, DOCUMENTS_PER_WRITE)
        deletion = self._random.random() < 0.25
        codes = [DELETED if deletion else self._random.randrange(len(self._corpus.stored)) for _ in ids]
        versions = self._versions(len(ids))
        write_id = uuid.UUID(int=self._random.getrandbits(128)).hex
        write, self._token = write_until_acknowledged(
            self._client, self._load.name, self._corpus, ids, codes, versions, write_id, self._failed
        )
        return write

    def _versions(self, count: int) -> list[int]:
        """Client versions follow the clock loosely, so that many come too late."""
        if self._load._versioning == "assigned":
            return []
        return [int(1_000 * (time.monotonic() + self._random.gauss(0, 2))) for _ in range(count)]

    def _search(self) -> Search:
        queries = [self._random.randrange(len(self._corpus.asked)) for _ in range(QUERIES_PER_SEARCH)]
        token = self._token if self._token.collection_id and self._random.random() < 0.5 else None
        top_n = self._random.choice((1, 10, 30))
        partial = self._random.random() < 0.2
        answer = self._client.search(
            self._load.name, codes=self._corpus.queries(queries), top_n=top_n, token=token, allow_partial=partial
        )
        hits = [[(hit.id, hit.score) for hit in found] for found in answer.hits]
        required, positions = token.positions if token else {}, answer.receipt.token.positions
        self._load.partial_answers += answer.receipt.coverage < 1.0
        return Search(queries, top_n, required, positions, hits, partial)

    def _read(self) -> Read:
        ids = self._random.sample(self._load._ids, DOCUMENTS_PER_WRITE)
        began = time.monotonic()
        found = read_documents(self._client, self._load.name, self._corpus, ids)
        return Read(began, time.monotonic(), ids, found)

    def _count(self) -> Count:
        result = self._client.count(self._load.name)
        return Count(result.count, result.token.positions)

    def _failed(self, error: CsrError) -> None:
        code = status_of(error)
        self._load.errors[code] += 1
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._load.wrong.append(error)


def write_until_acknowledged(
    client: Client,
    collection: str,
    corpus: Corpus,
    ids: Sequence[str],
    codes: Sequence[int],
    versions: Sequence[int],
    write_id: str,
    failed: Callable[[CsrError], None] = lambda _: None,
    ballast_bytes: int = 0,
) -> tuple[Write, Token]:
    """Store documents, or delete them if the first code is DELETED, under one write id, as often as it takes.

    Every payload tells the number of the code, and holds some ballast to fill logs with.

    Raises:
        CsrError: it took longer than WRITE_SECONDS_MAX; `failed` has heard of all errors before.
    """
    began = time.monotonic()
    while True:
        try:
            result = _send(client, collection, corpus, ids, codes, versions or None, write_id, ballast_bytes)
            break
        except CsrError as error:
            failed(error)
            if time.monotonic() > began + WRITE_SECONDS_MAX:
                raise
    outcomes = [Outcome(outcome.status, outcome.version) for outcome in result.results]
    return Write(began, time.monotonic(), ids, codes, versions, outcomes, result.token.positions), result.token


def _send(
    client: Client,
    collection: str,
    corpus: Corpus,
    ids: Sequence[str],
    codes: Sequence[int],
    versions: Sequence[int] | None,
    write_id: str,
    ballast_bytes: int,
) -> WriteResult:
    if codes[0] == DELETED:
        return client.delete(collection, ids, versions=versions, write_id=write_id)
    payloads = [{"code": code, "ballast": "x" * ballast_bytes} for code in codes]
    sent = corpus.codes(codes)
    return client.upsert(collection, ids, codes=sent, payloads=payloads, versions=versions, write_id=write_id)


def read_documents(client: Client, collection: str, corpus: Corpus, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return version and number of the code of the documents that exist, by id."""
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(ids), 500):
        documents = client.get(collection, ids[start : start + 500], include_codes=True).documents
        found |= {document.id: (document.version, code_of(document, corpus)) for document in documents}
    return found


def create_collection(
    client: Client, name: str, partitions: int = PARTITIONS, versioning: Versioning = "assigned"
) -> None:
    """Create a collection for codes of a corpus."""
    client.create_collection(
        name,
        "model",
        kind="codes",
        fingerprint=FINGERPRINT,
        hidden_dim=HIDDEN_DIM,
        k_max=K_MAX,
        partitions=partitions,
        versioning=versioning,
    )


def code_of(document: Document, corpus: Corpus) -> int:
    """Return the number of a document's code; DAMAGED unless payload and code are those that were written together."""
    if document.payload is None or document.latents is None or document.weights is None:
        return DAMAGED
    number = int(document.payload["code"])
    stored = np.round(document.weights.astype(np.float64) * 65_535).astype(int)
    found = list(zip(document.latents.tolist(), stored.tolist(), strict=True))
    return number if found == corpus.stored[number] else DAMAGED


def _size(operation: Operation) -> int:
    match operation:
        case Write() | Read():
            return len(operation.ids)
        case Search():
            return len(operation.queries)
        case Count():
            return 1
