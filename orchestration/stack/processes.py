"""Start, recognise and stop the processes of the stack.

A process is recorded as its pid and its start time, because the kernel reuses pids: a record whose start time does
not match belongs to somebody else and is never signalled.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
from pydantic import BaseModel, ConfigDict


class ProcessRecord(BaseModel):
    """A process that the stack started."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started: float
    address: str
    log: Path

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return self._find() is not None

    def _find(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            return process if self._is_it(process) and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _is_it(self, process: psutil.Process) -> bool:
        return bool(abs(process.create_time() - self.started) < 1.0)

    def stop(self, grace_seconds: float) -> None:
        """Ask the process to end, then kill what is left of its session; nothing when the pid is another's by now.

        Args:
            grace_seconds: Time between SIGTERM and SIGKILL.
        """
        if self._pid_was_reused():
            return  # which the kernel does only after the last process of the session has ended
        process = self._find()
        if process is not None:
            process.terminate()
            try:
                process.wait(grace_seconds)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(5)
        self._kill_session()

    def _pid_was_reused(self) -> bool:
        try:
            return not self._is_it(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return False

    def _kill_session(self) -> None:
        # Children that outlived their parent (Ray's workers, say) are in the session that spawn() opened for it.
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid:
                    process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                continue

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of the process's log."""
        if not self.log.exists():
            return []
        return self.log.read_text(errors="replace").splitlines()[-count:]


def spawn(name: str, command: Sequence[str], environment: Mapping[str, str], address: str, log: Path) -> ProcessRecord:
    """Start a process in a session of its own, so that a Ctrl-C in the terminal reaches only us.

    Args:
        name: Name in the stack.
        command: Program and arguments.
        environment: Variables on top of ours.
        address: host:port where it will answer.
        log: File that receives its output; appended to.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        started = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        started = time.time()
    return ProcessRecord(name=name, pid=process.pid, started=started, address=address, log=log)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends, so that what starts is recorded and what stops has ended."""
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
