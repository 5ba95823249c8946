"""A Redis whose disk is too small, and can be made larger while it runs."""

import resource
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from services.runtime.redis_binary import find_redis_server
from tests.support.redis_server import RedisServer

DISK_BYTES = 12 << 20
_NO_REWRITE = ("--auto-aof-rewrite-percentage", "0")
"""A rewrite would make room, sooner or later."""


class SmallDisk(Protocol):
    """What a Redis writes to."""

    @property
    def store(self) -> RedisServer:
        """The Redis."""

    def grow(self) -> None:
        """Give it more space than is needed."""

    def remove(self) -> None:
        """Leave nothing behind, once Redis has ended."""


class SmallFileSystem:
    """A tmpfs of its own: ENOSPC."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "disk"
        self._folder.mkdir()
        _mount(self._folder, f"size={DISK_BYTES}")
        self.store = RedisServer(find_redis_server(), self._folder / "redis", *_NO_REWRITE)

    def grow(self) -> None:
        """Remount it larger."""
        _mount(self._folder, f"remount,size={64 * DISK_BYTES}")

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class SmallFiles:
    """Files that the process cannot make longer than a limit: for machines that do not permit mounting."""

    def __init__(self, folder: Path) -> None:
        self.store = _LimitedRedis(find_redis_server(), folder / "redis", *_NO_REWRITE)

    def grow(self) -> None:
        """Lift the limit."""
        self.store.limit_file_size(resource.RLIM_INFINITY)

    def remove(self) -> None:
        """Nothing was set up."""


class _LimitedRedis(RedisServer):
    file_bytes = DISK_BYTES

    def start(self, wait: bool = True) -> None:
        super().start(wait=False)
        self.limit_file_size(self.file_bytes)
        if wait:
            self.wait_until_answering()

    def limit_file_size(self, file_bytes: int) -> None:
        """Set the limit of the process that runs, and of later ones."""
        self.file_bytes = file_bytes
        if self._process is not None and self._process.poll() is None:
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (file_bytes, hard))


def may_mount(folder: Path) -> bool:
    """Return whether this process may mount file systems."""
    probe = folder / "probe"
    probe.mkdir()
    if shutil.which("mount") is None:
        return False
    try:
        _mount(probe, "size=1m")
    except subprocess.CalledProcessError:
        return False
    subprocess.run(["umount", str(probe)], check=True)
    return True


def _mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
