"""Folders that appear complete or not at all, whatever dies in between."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path` when the block ends, or vanishes when the block raises.

    Raises:
        FileExistsError: `path` exists, already or by then.
        OSError: The file system refused.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path.parent} is not a folder") from error
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp makes it private
        for part in (*unfinished.rglob("*"), unfinished):
            sync(part)
        if path.exists():
            raise FileExistsError(f"{path} exists")
        unfinished.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file or folder written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
