"""The thread for work in the background."""

import logging
import threading

import pytest

from services.index.core.background import Background


def test_work_that_fails_does_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    """One error in the merges of one index would end the merges of all others, unnoticed."""
    background, gate, done = Background("work"), threading.Event(), threading.Event()
    background.submit(lambda: [][gate.wait(60)])
    background.submit(done.set)
    with caplog.at_level(logging.ERROR):
        gate.set()
        assert done.wait(60)
    assert "work failed" in caplog.text


def test_the_thread_ends_with_its_work_and_comes_back() -> None:
    """A program would never end, or its merges would stop after the first pause."""
    background, threads = Background("work"), list[threading.Thread]()
    for _ in range(3):
        done = threading.Event()

        def work(done: threading.Event = done) -> None:
            threads.append(threading.current_thread())
            done.set()

        background.submit(work)
        assert done.wait(60)
        threads[-1].join(60)
    assert len(set(threads)) == 3
    assert not any(thread.is_alive() for thread in threads)
