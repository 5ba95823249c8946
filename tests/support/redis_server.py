"""A real Redis in a process of its own, which a test may kill and start again."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from services.runtime.settings import RedisSettings

START_SECONDS_MAX = 20.0


class RedisServer:
    """One server on a free port, with an append-only file and `appendfsync always` in a folder of its own."""

    name = "redis"

    def __init__(self, binary: Path, folder: Path, *options: str, **environment: str) -> None:
        self.binary = binary
        self.folder = folder
        self.port = free_port()
        self._options = options
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def settings(self) -> RedisSettings:
        """Settings of a client that waits as long as a busy disk may take to flush."""
        return RedisSettings(url=self.url, timeout_seconds=10.0)

    @property
    def patient_settings(self) -> RedisSettings:
        """Settings of a client that a busy machine does not make give up."""
        return RedisSettings(url=self.url, timeout_seconds=60.0)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, wait: bool = True) -> None:
        """Start the server on its folder; with `wait`, until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    str(self.binary),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                    *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                    *("--loglevel", "warning", "--daemonize", "no"),
                    *self._options,
                ],
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_until_answering()

    def wait_until_answering(self) -> None:
        """Return when the server answers."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.answers():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"{self.binary} did not start:\n{(self.folder / 'server.log').read_text(errors='replace')}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: whatever was not handed to the kernel is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut down in good order."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """SIGKILL, then start again on the same folder and port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server runs"
        self._process.send_signal(number)

    def answers(self) -> bool:
        """Return whether the server answers now."""
        with redis.Redis(port=self.port, socket_timeout=1.0, socket_connect_timeout=1.0) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
