"""Five times as many searches come as can be answered: what is taken is answered in time, the rest refused at once."""

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from csr.v1 import search_pb2, search_pb2_grpc
from services.client import Client, Codes
from services.client.searches import search_request
from tests.robustness.corpus import FINGERPRINT
from tests.support.deployment import Deployment
from tests.support.measured import Measured

pytestmark = pytest.mark.robustness

HIDDEN_DIM, ACTIVE, QUERIES = 512, 128, 64
"""Long codes over few latents: answering a request must cost far more than refusing it."""
DOCUMENTS = 200_000
SECONDS = 60.0
OVERLOAD = 5
GOODPUT_MIN = 0.8
DEADLINE_SECONDS = 3.0
PEAK_CLIENTS = 4
NORMAL_SECONDS_MAX = 10.0


@dataclass
class Seen:
    """What was answered.

    Attributes:
        codes: Answers by status code.
        seconds: How long each right answer took.
        refused_seconds: How long each refusal took.
        wrong: Answers that differ from the right one.
    """

    codes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    wrong: int = 0


class Generator:
    """Sends one search again and again."""

    def __init__(self, channel: grpc.aio.Channel, request: search_pb2.SearchRequest) -> None:
        self._search = search_pb2_grpc.SearchServiceStub(channel).Search
        self._request = request
        self._right: bytes | None = None

    async def send(self, seen: Seen) -> None:
        """Send it once; the first answer, to a service at rest, is what all others must be."""
        began = time.monotonic()
        try:
            response = await self._search(self._request, timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            seen.codes[error.code()] += 1
            seen.refused_seconds.append(time.monotonic() - began)
            return
        seen.codes[grpc.StatusCode.OK] += 1
        seen.seconds.append(time.monotonic() - began)
        response.ClearField("receipt")
        answer = response.SerializeToString(deterministic=True)
        self._right = self._right or answer
        seen.wrong += answer != self._right

    async def closed(self, seconds: float) -> Seen:
        """Let a few clients send, each as soon as it has its answer; return what they saw."""
        seen, deadline = Seen(), time.monotonic() + seconds

        async def repeat() -> None:
            while time.monotonic() < deadline:
                await self.send(seen)

        await asyncio.gather(*(repeat() for _ in range(PEAK_CLIENTS)))
        return seen

    async def open(self, rate: float, seconds: float) -> Seen:
        """Send at a rate, whatever becomes of the answers."""
        seen, began = Seen(), time.monotonic()
        async with asyncio.TaskGroup() as sent:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - time.monotonic())
                sent.create_task(self.send(seen))
        return seen


def long_codes(rows: int, seed: int) -> Codes:
    """Return random codes of ACTIVE latents."""
    rng = np.random.default_rng(seed)
    latents = np.argsort(rng.random((rows, HIDDEN_DIM), np.float32), axis=1)[:, :ACTIVE].astype(np.uint16)
    return Codes(latents, -np.sort(-rng.random((rows, ACTIVE), np.float32) - 0.1, axis=1), FINGERPRINT)


def fill(client: Client, name: str) -> None:
    """Create a collection of long codes, and return when it can be searched."""
    client.create_collection(
        name, "model", kind="codes", fingerprint=FINGERPRINT, hidden_dim=HIDDEN_DIM, k_max=ACTIVE, partitions=4
    )
    for first in range(0, DOCUMENTS, 5_000):
        ids = [f"d{row}" for row in range(first, first + 5_000)]
        token = client.upsert(name, ids, codes=long_codes(5_000, first)).token
    client.search(name, codes=long_codes(1, 1), token=token)


@contextmanager
def cores_apart(deployment: Deployment) -> Iterator[None]:
    """Keep the servers on the first core that there is, and this process on the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("generator and servers need cores of their own, and there is one core")
    running = [process.process for process in (deployment.router, *deployment.index_servers)]
    for thread in [thread.id for process in running if process for thread in psutil.Process(process.pid).threads()]:
        os.sched_setaffinity(thread, cores[:1])
    os.sched_setaffinity(0, cores[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class Run:
    """What one run saw: at its peak, under too much load, and how long it took to be normal after that."""

    peak: Seen
    overload: Seen
    normal_seconds: float


async def run(address: str, request: search_pb2.SearchRequest, seconds: float) -> Run:
    """Measure the peak, send OVERLOAD times as much, then send single searches until they are as fast as at first."""
    async with grpc.aio.insecure_channel(address) as channel:
        generator = Generator(channel, request)
        at_rest = Seen()
        for _ in range(5):
            await generator.send(at_rest)
        peak = await generator.closed(seconds)
        overload = await generator.open(OVERLOAD * len(peak.seconds) / seconds, seconds)
        ended = time.monotonic()
        while time.monotonic() < ended + 3 * NORMAL_SECONDS_MAX:
            single = Seen()
            await generator.send(single)
            if single.seconds and single.seconds[0] < 2 * max(at_rest.seconds):
                break
        return Run(peak, overload, time.monotonic() - ended)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_overload_costs_little_of_what_can_be_answered(tmp_path: Path, measured: Measured) -> None:
    """Whenever more people search than usual, nobody would get an answer, or processes would run out of memory."""
    deployment = Deployment(tmp_path, index_servers=1, CSR_INDEX__THREADS="1")
    name = f"c-{uuid.uuid4().hex[:12]}"
    try:
        deployment.start()
        running = [process.process for process in (deployment.router, *deployment.index_servers)]
        with deployment.client(timeout_seconds=60.0) as client:
            fill(client, name)
        request = search_request(name, codes=long_codes(QUERIES, seed=92))
        with cores_apart(deployment):
            seen = asyncio.run(run(deployment.router.address, request, SECONDS))
        alive = [process is not None and process.poll() is None for process in running]
    finally:
        deployment.stop()
    peak, goodput = (len(part.seconds) / SECONDS for part in (seen.peak, seen.overload))
    codes = {code.name: number for code, number in seen.overload.codes.items()}
    measured(
        f"peak {peak:.1f} searches/s of {QUERIES} queries; {OVERLOAD} times as many for {SECONDS:.0f} s: {goodput:.1f} "
        f"answered ({goodput / peak:.0%}), refusals took {np.median(seen.overload.refused_seconds):.3f} s, {codes}; "
        f"normal after {seen.normal_seconds:.1f} s"
    )
    assert seen.overload.codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > len(seen.overload.seconds), "void: no overload"
    assert seen.overload.codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (seen.peak.wrong, seen.overload.wrong) == (0, 0)
    assert goodput >= GOODPUT_MIN * peak
    assert all(alive)
    assert seen.normal_seconds < NORMAL_SECONDS_MAX
