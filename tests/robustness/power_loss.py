"""A Redis whose machine can lose power: what was never flushed to the disk is gone.

Files are cut to what they held when they were last flushed, and folders list what they listed when they were last
flushed, as POSIX promises and no more; folders themselves are taken to exist. power_loss.c remembers the flushes.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.runtime.redis_binary import find_redis_server
from tests.support.redis_server import RedisServer

_SOURCE = Path(__file__).with_name("power_loss.c")


def compiled_shim(folder: Path) -> Path:
    """Compile power_loss.c; skip the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("power loss is simulated by a small C library, and there is no C compiler (cc, gcc)")
    library = folder / "power_loss.so"
    options = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", str(library), str(_SOURCE), "-ldl"], check=True)
    return library


class FragileRedis(RedisServer):
    """A Redis in a folder of its own that loses what it did not flush, whenever `lose_power` is called."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self._flushes, self._kept = folder / "flushes", folder / "kept"
        super().__init__(
            find_redis_server(),
            folder / "redis",
            *options,
            LD_PRELOAD=str(compiled_shim(folder)),
            POWER_LOSS_LOG=str(self._flushes),
            POWER_LOSS_KEPT=str(self._kept),
        )

    def start(self, wait: bool = True) -> None:
        """Start on what is on the disk; all of that is safe."""
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(self._kept, ignore_errors=True)
        self._kept.mkdir()
        with self._flushes.open("w") as flushes:
            for folder in self._folders():
                flushes.write(f"D {folder}\n")
                for path in (path for path in folder.iterdir() if path.is_file()):
                    inode = path.stat().st_ino
                    os.link(path, self._kept / str(inode))
                    flushes.write(f"E {inode} {path.name}\n")
                flushes.write(".\n")
                flushes.writelines(f"F {path.stat().st_ino} {path.stat().st_size}\n" for path in folder.iterdir())
        super().start(wait)

    def lose_power(self) -> int:
        """Kill it and discard what was not flushed; return how many bytes that were."""
        self.kill()
        sizes, listings = self._safe()
        before = sum(path.stat().st_size for folder in self._folders() for path in folder.iterdir() if path.is_file())
        left = 0
        for folder in self._folders():
            for path in [path for path in folder.iterdir() if path.is_file()]:
                path.unlink()
            for name, inode in listings.get(str(folder), {}).items():
                shutil.copyfile(self._kept / str(inode), folder / name)
                os.truncate(folder / name, sizes.get(inode, 0))
                left += sizes.get(inode, 0)
        return before - left

    def _folders(self) -> list[Path]:
        return [self.folder, *(path for path in self.folder.iterdir() if path.is_dir())]

    def _safe(self) -> tuple[dict[int, int], dict[str, dict[str, int]]]:
        """Return the flushed size of every file by inode, and the flushed names of every folder."""
        sizes: dict[int, int] = {}
        listings: dict[str, dict[str, int]] = {}
        folder = ""
        for line in self._flushes.read_text().splitlines():
            kind, _, rest = line.partition(" ")
            first, _, second = rest.partition(" ")
            match kind:
                case "F":
                    sizes[int(first)] = int(second)
                case "D":
                    folder = rest
                    listings[folder] = {}
                case "E":
                    listings[folder][second] = int(first)
        return sizes, listings
