"""One thread for all that indexes do in the background."""

import _thread
import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Background:
    """Runs what is submitted in that order, one after the other, in a thread that lives while anything waits.

    The thread is no daemon: the end of the program waits for what runs, whose machine code would be unloaded under it.
    What still waits then is dropped, and so is what a process submits whose main thread has ended. A forked process
    has to make a new one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def submit(self, work: Callable[[], None]) -> None:
        """Let something be run later, or never; what it raises is logged."""
        with self._lock:
            self._waiting.append(work)
            if not self._running:
                try:
                    # By a thread of its own, which no signal interrupts: an exception within Thread.start leaves a lock
                    # behind, and a thread that waits for it for ever, as the end of the program does for the thread.
                    _thread.start_new_thread(self._start, ())
                except RuntimeError as error:
                    _log.info("nothing runs in the background: %s", error)
                else:
                    self._running = True

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name=self._name, daemon=False).start()
        except RuntimeError as error:  # the program is ending, or may start no more threads
            _log.info("nothing runs in the background: %s", error)
            with self._lock:
                self._running = False

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or not threading.main_thread().is_alive():
                    self._running = False
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception:
                _log.exception("%s failed", self._name)
