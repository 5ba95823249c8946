import asyncio

import numpy as np
import pytest

from services.index.admission import FIRST_RATE, Admission
from services.index.lanes import Lanes
from services.runtime.errors import Overloaded
from tests.services.index.test_generation import ALL
from tests.services.index.test_lanes import PARTITIONS, GatedIndex, queries, soon

SECOND = int(FIRST_RATE)
"""Work of one second of one thread, as long as nothing was measured."""


def test_an_idle_server_takes_any_work() -> None:
    """A request larger than the queue would never be answered, however idle the server is."""
    Admission(1, queue_seconds=1.0).admit(100 * SECOND, 0.1)


def test_work_beyond_the_queue_is_refused_and_told_when_to_come_back() -> None:
    """Queues would grow until every answer is too late, and callers would come back too early or too late."""
    admission = Admission(2, queue_seconds=1.0)
    admission.admit(SECOND, 60.0)
    assert admission.wait_seconds == pytest.approx(0.5)
    admission.admit(2 * SECOND, 60.0)
    with pytest.raises(Overloaded) as refused:
        admission.admit(1, 60.0)
    assert refused.value.retry_seconds == pytest.approx(1.5)
    admission.done(2 * SECOND)
    admission.admit(1, 60.0)


def test_work_that_cannot_begin_before_its_deadline_is_refused() -> None:
    """A server would queue what nobody waits for any more by the time that it begins."""
    admission = Admission(1, queue_seconds=60.0)
    admission.admit(SECOND, 60.0)
    with pytest.raises(Overloaded):
        admission.admit(1, 0.5)
    admission.admit(1, 2.0)


def test_the_rate_is_measured() -> None:
    """On a machine that is slower than expected the queue would be longer than it may be, on a faster one shorter."""
    admission = Admission(1, queue_seconds=60.0)
    for _ in range(1_000):
        admission.admit(SECOND, 60.0)
        admission.done(SECOND, 0.1)
    admission.admit(SECOND, 60.0)
    assert admission.wait_seconds == pytest.approx(0.1, rel=0.05)


async def test_what_was_charged_is_given_back_whatever_happens(rng: np.random.Generator) -> None:
    """Every cancelled or failed request would leave a piece of the queue taken, until nothing is admitted any more."""
    index = GatedIndex()
    lanes = Lanes(1, 60.0)
    running = [
        asyncio.create_task(lanes.search(index, index.published, queries(rng, 9), ALL, PARTITIONS, soon()))
        for _ in range(3)
    ]
    while not index.turns:
        await asyncio.sleep(0.01)
    assert lanes.admission.wait_seconds > 0
    running[0].cancel()
    running[2].cancel()
    index.gate.set()
    await asyncio.gather(*running, return_exceptions=True)
    with pytest.raises(ZeroDivisionError):
        await lanes.run(lambda: 1 // 0, 10, soon())
    assert lanes.admission.wait_seconds == 0
    lanes.close()


async def test_a_full_queue_sheds_and_recovers(rng: np.random.Generator) -> None:
    """Under overload a server would answer everything late instead of some of it in time."""
    index = GatedIndex()
    lanes = Lanes(1, 0.0005)
    first = asyncio.create_task(lanes.search(index, index.published, queries(rng, 40), ALL, PARTITIONS, soon()))
    while not index.turns:
        await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await lanes.search(index, index.published, queries(rng, 1), ALL, PARTITIONS, soon())
    index.gate.set()
    await first
    assert len(await lanes.search(index, index.published, queries(rng, 1), ALL, PARTITIONS, soon())) == 1
    lanes.close()
