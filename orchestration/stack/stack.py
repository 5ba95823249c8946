"""Bring the local stack up and down, and tell the truth about it.

`up` checks everything it can before it starts anything, records each process as it starts it, and on any failure
stops what it started. A stack of which some processes died is completed by another `up`.
"""

import asyncio
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from orchestration.stack.components import (
    Component,
    common_environment,
    components,
    index_servers,
    ray_folder,
    starts_redis,
)
from orchestration.stack.placement import place
from orchestration.stack.processes import ProcessRecord, interrupts_deferred, spawn
from orchestration.stack.state import StackError, StackState, read_state, write_state
from services.runtime.errors import CsrError
from services.runtime.redis_binary import RedisServerMissing
from services.runtime.settings import Settings

POLL_SECONDS = 0.2
LOG_LINES_SHOWN = 3

Report = Callable[[str], None]


@dataclass(frozen=True)
class ProcessReport:
    """One process as it is right now."""

    name: str
    address: str
    pid: int
    ready: bool
    detail: str


class Stack:
    """The stack that belongs to one data folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.data_dir / "stack"
        self.state_path = self.folder / "stack.json"

    def up(
        self, report: Report, only: Sequence[str] | None = None, backbone: Callable[[], Path | None] = lambda: None
    ) -> None:
        """Start what does not run yet and wait until all of it serves.

        Args:
            report: Called with one line per step.
            only: Names of the processes to start; None for all. Used to start Ray ahead of the rest.
            backbone: Finds the folder of the text backbone, once the encoder is about to start; None when the encoder
                is to take embeddings only.

        Raises:
            StackError: something is in the way; nothing that this call started is left running.
        """
        state = read_state(self.state_path) or StackState()
        alive = {record.name for record in state.alive()}
        if state.processes and not alive:
            raise StackError(
                f"{self.state_path} is stale: the processes in it ended without `csr down`; run `csr down` to clear it"
            )
        wanted = [part for part in self._components() if only is None or part.name in only]
        missing = [part for part in wanted if part.name not in alive]
        self._check(missing, state)
        environment = common_environment(self.settings)
        if any(part.name == "encoder" for part in missing) and (folder := backbone()):
            environment["CSR_ENCODER__BACKBONE"] = str(folder)
        started: list[ProcessRecord] = []
        try:
            for part in missing:
                if part.name == "index-0":
                    asyncio.run(place(self.settings.redis, index_servers(self.settings)))
                report(f"starting {part.name} on {part.address}")
                log = self.folder / "logs" / f"{part.name}.log"
                variables = environment | dict(part.prepare())
                with interrupts_deferred():
                    record = spawn(part.name, part.command, variables, part.address, log)
                    started.append(record)
                    state = state.with_process(record)
                    write_state(self.state_path, state)
                if part.name in ("redis", "ray"):
                    self._await_ready([(part, record)])
            self._await_ready(list(zip(missing, started, strict=True)))
        except BaseException:
            with interrupts_deferred():
                self._stop(started)
                left = StackState(processes=tuple(record for record in state.processes if record not in started))
                self._record(left)
            raise

    def down(self, report: Report) -> None:
        """Stop every process, last started first, and forget the stack; fine when nothing runs."""
        state = read_state(self.state_path)
        if state is None:
            return
        for record in state.alive():
            report(f"stopping {record.name} (pid {record.pid})")
        self._stop(state.processes)
        self._record(StackState())

    def status(self) -> list[ProcessReport]:
        """Probe every process of the stack, right now."""
        state = read_state(self.state_path) or StackState()
        reports = []
        for part in self._components():
            record = state.get(part.name)
            if record is None:
                reports.append(ProcessReport(part.name, part.address, 0, False, "not started"))
            elif not record.alive():
                reports.append(
                    ProcessReport(part.name, part.address, record.pid, False, "died; `csr up` starts it again")
                )
            else:
                reason = part.not_ready()
                reports.append(ProcessReport(part.name, part.address, record.pid, reason is None, reason or "ready"))
        return reports

    def running(self) -> bool:
        """Whether any process of the stack runs."""
        state = read_state(self.state_path)
        return bool(state and state.alive())

    def _components(self) -> list[Component]:
        try:
            return components(self.settings)
        except RedisServerMissing as error:
            raise StackError(str(error)) from None

    def _check(self, missing: Sequence[Component], state: StackState) -> None:
        if not starts_redis(self.settings):
            self._check_redis()
        for part in missing:
            if part.outlives_process and state.get(part.name) is not None and part.not_ready() is None:
                continue
            for port in part.ports:
                _check_free(part.name, port)
        if any(part.name == "encoder" for part in missing):
            self._check_model()  # last, because it takes seconds

    def _check_model(self) -> None:
        from orchestration.registry import Registry  # imports torch and MLflow, which `csr status` need not wait for

        name = self.settings.registry.model
        try:
            Registry.open(self.settings).resolve(name)
        except CsrError as error:
            raise StackError(f"model: {error}; train and promote one first: `csr train`, `csr promote`") from None

    def _check_redis(self) -> None:
        url = urlsplit(self.settings.redis.url)
        try:
            with redis.Redis.from_url(url.geturl(), socket_connect_timeout=2, socket_timeout=2) as client:
                client.ping()
        except redis.RedisError as error:
            where = url.path if url.scheme == "unix" else f"{url.hostname or 'localhost'}:{url.port or 6379}"
            shown = f"{url.scheme}://{where}"  # the rest may hold a password
            raise StackError(f"REDIS_URL={shown}: {error}; start it, or unset REDIS_URL to use a local one") from None

    def _await_ready(self, pairs: Sequence[tuple[Component, ProcessRecord]]) -> None:
        deadline = time.monotonic() + self.settings.stack.start_seconds
        waiting = list(pairs)
        while waiting:
            still = []
            for part, record in waiting:
                if not record.alive():
                    last = " | ".join(record.last_lines(LOG_LINES_SHOWN)) or "no output"
                    raise StackError(f"{part.name} ended while starting: {last} (log: {record.log})")
                if (reason := part.not_ready()) is not None:
                    if time.monotonic() > deadline:
                        raise StackError(f"{part.name} is not ready in time: {reason} (log: {record.log})")
                    still.append((part, record))
            waiting = still
            if waiting:
                time.sleep(POLL_SECONDS)

    def _stop(self, records: Sequence[ProcessRecord]) -> None:
        grace = {part.name: part.grace_seconds for part in self._components()}
        for record in reversed(records):
            record.stop(grace.get(record.name, 15.0))
            if record.name == "ray":
                shutil.rmtree(ray_folder(self.settings), ignore_errors=True)

    def _record(self, state: StackState) -> None:
        if state.processes:
            write_state(self.state_path, state)
        else:
            self.state_path.unlink(missing_ok=True)


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackError(
                f"{name}: port {port} is taken by another process; "
                "stop that process or choose another port (see the settings in README.md)"
            ) from None
