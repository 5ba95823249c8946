"""Folders of the cache: built once, complete or absent, whatever dies in between."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class DataUnavailable(Exception):
    """A data set or backbone cannot be had; the text is one line that says why and what to do."""


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` if it does not exist yet.

    `build` gets another folder to fill, which takes the final name only when it returns. That folder outlives an
    interrupted build and is handed to the next attempt, so a long build may pick up what it had finished. One
    process builds at a time; others wait for it and find the result.

    Raises:
        DataUnavailable: the cache cannot be written (full disk, missing permission).
    """
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                partial.mkdir(exist_ok=True)
                build(partial)
                _sync(partial)
                partial.rename(folder)
    except OSError as error:
        raise DataUnavailable(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _sync(folder: Path) -> None:
    """Put the contents on disk before the name: a power cut must not leave a complete-looking folder of empty files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
