"""The end of a process, and its copies: what becomes of merges and locks."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[4]
PREPARED = """
import os, threading, time
import numpy as np
from services.index.core import segment, writer
from services.index.core.index import SparseIndex

writer.SEAL_ROWS, writer.SEGMENTS_MAX = 4, 2
real_build, parent, begun, gate = segment.build, os.getpid(), threading.Event(), threading.Event()
held = {"merge", "held"}

def put(index, begin, end):
    for first in range(begin, end, 4):
        index.upsert([f"{row:03d}" for row in range(first, first + 4)], np.zeros((4, 1), int), np.ones((4, 1), "f4"))

def build(*arguments):
    if os.getpid() == parent and threading.current_thread().name in held:
        begun.set()
        gate.wait(60)
    return real_build(*arguments)

segment.build = build
"""


def run(program: str) -> str:
    """Run a program after the preparations; return what it printed."""
    source = PREPARED + textwrap.dedent(program)
    command = [sys.executable, "-c", source]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_fork_goes_on_with_what_it_inherited() -> None:
    """A forked worker would wait for ever for a merge, or for a lock, of a thread that it does not have."""
    program = """
    merging, queued, written = SparseIndex(4, 1), SparseIndex(4, 1), SparseIndex(4, 1)
    put(merging, 0, 20)
    assert begun.wait(60)
    put(queued, 0, 20)
    begun.clear()
    writes = threading.Thread(target=put, args=(written, 0, 4), name="held")
    writes.start()
    assert begun.wait(60)
    child = os.fork()
    if not child:
        for index in (merging, queued):
            put(index, 20, 160)
            index.settle()
            assert index.ids() == [f"{row:03d}" for row in range(160)]
            assert len(index.state.parts) <= 2
        assert written.ids() == []
        put(written, 0, 160)
        while len(written.state.parts) > 2:  # the child has a thread for merges of its own
            time.sleep(0.01)
        os._exit(0)
    print("child", os.waitpid(child, 0)[1])
    gate.set()
    for index in (merging, queued):
        index.settle()
        assert index.ids() == [f"{row:03d}" for row in range(20)]
    writes.join()
    print("parent", written.ids())
    """
    assert run(program) == "child 0\nparent ['000', '001', '002', '003']\n"


def test_the_end_of_a_program_waits_for_one_merge_at_most() -> None:
    """A server with hundreds of collections would be killed for not stopping in time."""
    program = """
    indexes = [SparseIndex(4, 1) for _ in range(20)]
    for index in indexes:  # by threads that the end of the program would not wait for
        writes = threading.Thread(target=put, args=(index, 0, 20), daemon=True)
        writes.start()
        writes.join()
    assert begun.wait(60)
    end, merge = threading.main_thread(), writer.merging.Merge.swap

    def swap(*arguments):
        print("merged")
        return merge(*arguments)

    def open_gate():
        end.join(1)
        gate.set()

    writer.merging.Merge.swap = swap
    threading.Thread(target=open_gate).start()
    """
    assert run(program) == "merged\n"


def test_an_interrupted_write_or_merge_stops_no_other() -> None:
    """After Ctrl-C or a timeout in one call, every later write would wait for ever, and the program would not end."""
    program = """
    import random, signal

    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        if armed:  # the signal may come late, by way of another thread
            raise Interrupt

    signal.signal(signal.SIGALRM, interrupt)
    draw, index, ids, interrupts = random.Random(0), SparseIndex(4, 1), set(), 0
    gate.set()
    put(index, 0, 40)  # compiles everything: numba itself breaks when that is interrupted
    index.settle()
    index.delete(index.ids())
    until = time.monotonic() + 4
    while time.monotonic() < until:
        batch = {str(draw.randrange(400)) for _ in range(3)}
        done = False
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 4e-3 * draw.random() + 1e-6)
            try:
                index.upsert(list(batch), np.zeros((len(batch), 1), int), np.ones((len(batch), 1), "f4"))
                done = True
                for _ in range(3):
                    index.settle()
            finally:
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            armed, interrupts = False, interrupts + 1
        now = set(index.ids())
        assert now == ids | batch or not done and now == ids
        ids = now
        other = threading.Thread(target=index.delete, args=(["nobody"],), daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive(), "the lock is still held"
    assert interrupts > 20, interrupts
    settled = threading.Thread(target=index.settle, daemon=True)
    settled.start()
    settled.join(10)
    print(settled.is_alive(), len(index.state.parts) <= 2)
    """
    assert run(program) == "False True\n"
