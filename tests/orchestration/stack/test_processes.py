"""Processes are recognised and ended."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from orchestration.stack.processes import ProcessRecord, interrupts_deferred, spawn
from tests.support.deployment import eventually
from tests.support.stack import survivors

ORDERLY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("drained"))
print("started")
time.sleep(60)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("started")
time.sleep(60)
"""


def start(code: str, folder: Path) -> ProcessRecord:
    """Start Python in a session of its own and wait for its first line."""
    record = spawn("test", [sys.executable, "-c", code], {"PYTHONUNBUFFERED": "1"}, "127.0.0.1:1", folder / "log")
    eventually(lambda: record.last_lines(1) != [])
    return record


def test_a_process_in_order_ends_within_its_grace(tmp_path: Path) -> None:
    """Servers would be killed in the middle of their requests."""
    record = start(ORDERLY, tmp_path)
    assert record.alive()
    record.stop(grace_seconds=20)
    assert not record.alive()
    assert record.last_lines(1) == ["drained"]


def test_a_process_that_ignores_sigterm_ends_with_its_children(tmp_path: Path) -> None:
    """`csr down` would leave processes that hang, or workers without their parent."""
    record = start(STUBBORN, tmp_path)
    assert len(survivors([record])) == 2
    record.stop(grace_seconds=0.2)
    eventually(lambda: survivors([record]) == [])


def test_children_end_although_their_parent_was_killed(tmp_path: Path) -> None:
    """Ray's workers would outlive a Ray that the kernel killed."""
    record = start(STUBBORN, tmp_path)
    os.kill(record.pid, signal.SIGKILL)
    eventually(lambda: not record.alive())
    record.stop(grace_seconds=0.2)
    eventually(lambda: survivors([record]) == [])


def test_another_process_under_the_pid_is_left_alone(tmp_path: Path) -> None:
    """A process of somebody else would be killed because it was given a pid that was ours once."""
    other = start("import time\nprint(1)\ntime.sleep(60)", tmp_path)
    ours = other.model_copy(update={"started": other.started - 3600.0})
    assert not ours.alive()
    ours.stop(grace_seconds=0.2)
    assert other.alive()
    other.stop(grace_seconds=20)


def test_ctrl_c_waits_for_the_end_of_a_block() -> None:
    """A process that starts while somebody presses Ctrl-C would run on, unrecorded."""
    steps = []

    def block() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("recorded")
        steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["recorded"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_spawned_processes_take_ctrl_c_as_usual(tmp_path: Path) -> None:
    """A process could not be interrupted because it was started while Ctrl-C was held back."""
    with interrupts_deferred():
        record = start("import time\nprint(1)\ntime.sleep(60)", tmp_path)
    os.kill(record.pid, signal.SIGINT)
    psutil.wait_procs([psutil.Process(record.pid)], timeout=20)
    assert not record.alive()
