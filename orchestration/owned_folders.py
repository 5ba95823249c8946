"""Folders that belong to one process: removed by it when it ends, and by the next one where it was killed."""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

_OWNER_FILE: Final = "owner.json"


@contextmanager
def owned_folder(folder: Path) -> Iterator[Path]:
    """Make the folder, unless it exists, and remove it when the block ends; `keep` prevents that."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"host": socket.gethostname(), "pid": psutil.Process().pid, "started": psutil.Process().create_time()}
    (folder / _OWNER_FILE).write_text(json.dumps(owner))
    try:
        yield folder
    finally:
        if (folder / _OWNER_FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)


def keep(folder: Path) -> None:
    """Let an owned folder stay for people to look at; nothing removes it any more."""
    (folder / _OWNER_FILE).unlink()


def sweep(parent: Path, pattern: str = "*") -> None:
    """Remove the folders whose owner ran on this machine and is dead: a killed process cannot do so itself."""
    for file in parent.glob(f"{pattern}/{_OWNER_FILE}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # being written or removed at this moment
            owner = json.loads(file.read_text())
            if owner["host"] == socket.gethostname() and not _lives(owner["pid"], owner["started"]):
                shutil.rmtree(file.parent, ignore_errors=True)


def _lives(pid: int, started: float) -> bool:
    """Tell the process from a later one with the same number."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
