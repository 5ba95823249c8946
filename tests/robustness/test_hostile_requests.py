"""Requests that nobody should send: refused with the right code, nothing stored, nothing dies, memory stays."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csr.v1 import search_pb2, search_pb2_grpc
from services.client import Client, Codes
from tests.robustness.hostile import (
    BLAMES_THE_CALLER,
    FINGERPRINT,
    HIDDEN_DIM,
    K_MAX,
    Hostile,
    Requests,
    code_batch,
)
from tests.support.deployment import Deployment
from tests.support.measured import Measured

pytestmark = pytest.mark.robustness

AT_A_TIME = 32
GROWTH_BYTES_MAX = 50 << 20
TOO_LARGE = (5 << 20, 9 << 20, 65 << 20)


class Sender:
    """Sends bytes and collects what was answered wrongly."""

    def __init__(self, address: str) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._address = address

    def send(self, requests: Iterable[Hostile]) -> None:
        """Send requests, some at a time, and compare their codes with those that are right."""
        asyncio.run(self._send(iter(requests)))

    async def _send(self, requests: Iterator[Hostile]) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel, asyncio.TaskGroup() as senders:
            for _ in range(AT_A_TIME):
                senders.create_task(self._send_in_turn(channel, requests))

    async def _send_in_turn(self, channel: grpc.aio.Channel, requests: Iterator[Hostile]) -> None:
        for hostile in requests:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(hostile.method)
            try:
                await call(hostile.request, timeout=30.0)
                code, details = grpc.StatusCode.OK, ""
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), str(error.details())
            self.answers[code.name] += 1
            if code not in hostile.allowed:
                request = hostile.request[:200]
                self.wrong.append(f"{hostile.method} with {hostile.what}: {code.name} {details} {request!r}")


def memory(deployment: Deployment) -> int:
    """Return the resident memory of router and index servers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids(deployment))


def pids(deployment: Deployment) -> list[int]:
    """Return the processes that run."""
    processes = [process.process for process in (deployment.router, *deployment.index_servers)]
    return [process.pid for process in processes if process is not None and process.poll() is None]


def make(requests: Requests, rng: random.Random, count: int) -> Iterator[Hostile]:
    """Yield so many requests of both sorts."""
    for _ in range(count):
        yield requests.spoilt() if rng.random() < 0.5 else requests.mutated()


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(3_000, id="short"),
        pytest.param(200_000, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1_800)]),
    ],
)
def test_hostile_requests_are_refused_and_leave_nothing_behind(tmp_path: Path, count: int, measured: Measured) -> None:
    """Anybody who can reach the port could stop the service, fill its memory or store what it cannot read."""
    rng = random.Random(81)
    name = f"c-{uuid.uuid4().hex[:12]}"
    deployment = Deployment(tmp_path)
    sender = Sender(deployment.router.address)
    requests = Requests(name, rng)
    try:
        deployment.start()
        running = pids(deployment)
        with deployment.client(timeout_seconds=60.0) as client:
            right = prepare(client, name)
            sender.send(make(requests, rng, 1_000))  # what is allocated once does not count as growth
            sender.send(requests.too_large(size) for size in TOO_LARGE)
            before = memory(deployment)
            sender.send(make(requests, rng, count))
            sender.send(requests.too_large(size) for size in TOO_LARGE)
            growth = memory(deployment) - before
            after = state(client, name)
        assert pids(deployment) == running
    finally:
        deployment.stop()
    measured(f"{sender.answers.total()} requests answered {dict(sender.answers)}; memory {growth / 2**20:+.1f} MiB")
    assert sender.wrong[:10] == []
    assert after == right
    assert growth < GROWTH_BYTES_MAX


def prepare(client: Client, name: str) -> object:
    """Create the collection with some documents, and return its state."""
    client.create_collection(
        name,
        "model",
        kind="codes",
        fingerprint=FINGERPRINT,
        hidden_dim=HIDDEN_DIM,
        k_max=K_MAX,
        partitions=4,
        fields={"year": "int"},
    )
    client.upsert(name, [f"doc-{number}" for number in range(64)], codes=codes(), payloads=[{"year": 1}] * 64)
    return state(client, name)


def codes() -> Codes:
    """Return codes that find each other."""
    latents = [[(row + place) % HIDDEN_DIM for place in range(K_MAX)] for row in range(64)]
    weights = [[float(K_MAX - place) for place in range(K_MAX)] for _ in range(64)]
    return Codes(np.array(latents, np.uint16), np.array(weights, np.float32), FINGERPRINT)


def state(client: Client, name: str) -> object:
    """Return everything that could change: collections, positions of all logs, documents and answers."""
    counted = client.count(name)
    answer = client.search(name, codes=codes(), top_n=64, token=counted.token)
    return [collection.name for collection in client.list_collections()], counted, answer.hits


def test_a_request_that_is_answered_too_kindly_is_reported(tmp_path: Path) -> None:
    """Negative control: if valid requests passed for refused ones, nobody would look at the answers."""
    name = f"c-{uuid.uuid4().hex[:12]}"
    deployment = Deployment(tmp_path, index_servers=1)
    sender = Sender(deployment.router.address)
    try:
        deployment.start()
        with deployment.client(timeout_seconds=60.0) as client:
            prepare(client, name)
        valid = search_pb2.CountRequest(collection=name).SerializeToString()
        sender.send([Hostile("nothing", "/csr.v1.SearchService/Count", valid, BLAMES_THE_CALLER)])
    finally:
        deployment.stop()
    assert len(sender.wrong) == 1


def test_spoilt_requests_have_their_defect_and_nothing_else() -> None:
    """A generator that makes broken messages would be refused for the wrong reason, and proves little."""
    requests = Requests("c", random.Random(82))
    defects = Counter(requests.spoilt().what for _ in range(5_000))
    assert len(defects) > 60
    for _ in range(200):
        hostile = requests.spoilt()
        kind = search_pb2.SearchRequest if hostile.method.endswith("Search") else search_pb2.UpsertRequest
        assert kind.FromString(hostile.request).SerializeToString() == hostile.request


weird_floats = st.floats(width=32)
weird_numbers = st.sampled_from([0, 1, 2, 3, 8, 9, 256, 257, 1_000, 1_001, 2**31, 2**32 - 1])
weird_texts = st.one_of(st.text(max_size=200), st.just("x" * 70_000))


@given(
    texts=st.lists(weird_texts, max_size=5),
    numbers=st.tuples(weird_numbers, weird_numbers, weird_numbers, weird_numbers),
    weights=st.lists(weird_floats, min_size=K_MAX, max_size=K_MAX),
    min_score=weird_floats,
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    token=st.lists(st.tuples(weird_numbers, st.integers(0, 2**64 - 1)), max_size=5),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_combination_of_values_is_answered_or_refused(
    deployment: Deployment,
    texts: list[str],
    numbers: tuple[int, int, int, int],
    weights: list[float],
    min_score: float,
    flags: tuple[bool, bool, bool],
    token: list[tuple[int, int]],
) -> None:
    """Some combination of values that each check lets through would end in an internal error."""
    request = search_pb2.SearchRequest(
        collection=texts[0] if texts else prepared(deployment),
        codes=code_batch(random.Random(len(texts)), 2, weights),
        top_n=numbers[0],
        k=numbers[1],
        k_query=numbers[2],
        k_docs=numbers[3],
        min_score=min_score,
        include_payloads=flags[0],
        allow_partial=flags[1],
        allow_lower_k=flags[2],
        token=search_pb2.Token(
            collection_id=texts[-1] if texts else "",
            positions=[search_pb2.PartitionPosition(partition=partition, lsn=lsn) for partition, lsn in token],
        ),
    )
    with grpc.insecure_channel(deployment.router.address) as channel:
        call = search_pb2_grpc.SearchServiceStub(channel).Search.future(request, timeout=10.0)
        code = call.code()  # waits
    assert code in BLAMES_THE_CALLER | {grpc.StatusCode.OK}, call.details()


@cache
def prepared(deployment: Deployment) -> str:
    """Return a collection of a deployment that is not spoilt by other tests."""
    name = f"c-{uuid.uuid4().hex[:12]}"
    with deployment.client(timeout_seconds=60.0) as client:
        prepare(client, name)
    return name
