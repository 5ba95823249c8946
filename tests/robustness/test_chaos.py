"""A random process is killed every few seconds, while clients write, search, read and count."""

import os
import pickle
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.robustness.checker import check
from tests.robustness.corpus import Corpus
from tests.robustness.load import Load
from tests.robustness.planted import PLANTED_IN_RUNS
from tests.support.deployment import Deployment
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer
from tests.support.service_process import ServiceProcess

pytestmark = pytest.mark.robustness

OPERATIONS_PER_SECOND_MIN = 200
"""A run below it says nothing: what is idle cannot lose anything."""
MINUTES = float(os.environ.get("CSR_ROBUSTNESS_MINUTES", "3"))
SEED = int(os.environ.get("CSR_ROBUSTNESS_SEED", "5"))


def kill_at_random(deployment: Deployment, seconds: float, rng: random.Random) -> Counter[str]:
    """SIGKILL one process after another and start it again; return how often each."""
    processes: list[RedisServer | ServiceProcess] = [deployment.redis, *deployment.index_servers, deployment.router]
    turn: list[RedisServer | ServiceProcess] = []
    killed: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while True:
        pause = rng.uniform(2.0, 5.0)
        if time.monotonic() + pause > deadline:
            return killed
        time.sleep(pause)
        turn = turn or rng.sample(processes, len(processes))  # in turns, so that none is left out of a short run
        process = turn.pop()
        assert process.running, f"{process.name} ended by itself"
        process.kill()
        killed[process.name] += 1
        time.sleep(rng.choice((0.0, 0.0, 0.5)))
        process.start(wait=False)


def unhandled_errors(folder: Path) -> list[str]:
    """Return what services logged about exceptions that nobody expected, with their tracebacks."""
    lines = [line for path in sorted(folder.glob("*.log")) for line in path.read_text().splitlines()]
    return [line for line in lines if "unhandled error" in line]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(25.0, id="short"),
        pytest.param(60 * MINUTES, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(120 * MINUTES + 600)]),
    ],
)
def test_killed_processes_lose_nothing_and_answer_nothing_wrong(
    tmp_path: Path, seconds: float, measured: Measured
) -> None:
    """Users would lose documents that were confirmed, see deleted ones again, or get wrong answers after a crash."""
    corpus = Corpus(SEED)
    snapshots = str(tmp_path / "snapshots")
    deployment = Deployment(tmp_path, CSR_INDEX__SNAPSHOT_DIR=snapshots, CSR_INDEX__SNAPSHOT_SECONDS="2")
    assigned = Load(deployment.router.address, corpus, SEED)
    chosen = Load(deployment.router.address, corpus, SEED + 1, versioning="client")
    try:
        deployment.start()
        assigned.create()
        chosen.create()
        with assigned.working(clients=2), chosen.working(clients=2):
            killed = kill_at_random(deployment, seconds, random.Random(SEED))
            deployment.heal()
        recordings = [load.recording() for load in (assigned, chosen)]
    finally:
        deployment.stop()
    (tmp_path / "recordings.pickle").write_bytes(pickle.dumps(recordings))  # what a failure is explained from
    rate = assigned.rate + chosen.rate
    measured(f"{rate:.0f} operations/s for {assigned.worked:.0f} s, killed {dict(killed)}; {assigned.summary()}")
    assert unhandled_errors(tmp_path) == []
    assert assigned.wrong + chosen.wrong == []
    assert rate >= OPERATIONS_PER_SECOND_MIN, "void: too few operations to prove anything"
    for recording in recordings:
        assert check(recording, corpus.scores)[:10] == []
    for plant, kind in PLANTED_IN_RUNS:
        spoilt = recordings[0].copy()
        plant(spoilt)
        assert kind in {violation.kind for violation in check(spoilt, corpus.scores)}, plant.__name__
