"""Arrays in files: written durably, linked where an array lies in a file already, verified when they are read."""

import hashlib
import io
import os
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.index.core.errors import CorruptSnapshot

MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What says that there is no such file; any other OSError says nothing about the snapshot."""
MAPPED_BYTES_MIN = 1 << 20
"""Smaller files are read: a mapping keeps a file open, and a server may hold thousands of small collections."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that holds one array, as it was when it was written or read."""

    path: Path
    inode: int
    bytes: int
    changed_ns: int
    """When its content was changed last."""
    sha256: str

    def moved_to(self, folder: Path) -> "StoredFile":
        """Return the same file after its folder was renamed."""
        return replace(self, path=folder / self.path.name)


class StoredArrays:
    """Knows which file holds an array, as long as the array lives. For arrays that are never changed."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[weakref.ref[NDArray[Any]], StoredFile]] = {}

    def remember(self, array: NDArray[Any], file: StoredFile) -> None:
        """Know that the file holds the array."""
        key = id(array)

        def forget(gone: "weakref.ref[NDArray[Any]]") -> None:
            # By now another array may live at this address.
            if self._files.get(key, (None,))[0] is gone:
                self._files.pop(key, None)

        self._files[key] = weakref.ref(array, forget), file

    def write(self, path: Path, array: NDArray[Any]) -> StoredFile:
        """Store an array durably under a new path: as a hard link if that is possible, else in numpy's format.

        Raises:
            CorruptSnapshot: the array is mapped from a file that was altered since it was verified.
        """
        reference, known = self._files.get(id(array), (None, None))
        if reference is None or known is None or reference() is not array:
            return _write(path, array)
        linked = _link(path, known)
        if linked:
            return linked
        written = _write(path, array)
        if written.sha256 != known.sha256:  # a digest of its own would make the damage pass for valid
            raise CorruptSnapshot(f"{known.path} was altered while it was mapped; what it holds now is not saved")
        return written

    def read(self, path: Path, size: int, sha256: str) -> NDArray[Any]:
        """Verify every byte of a file, and read it or, if it is large, map it into memory; remember it.

        Pages of a mapped file come from disk when they are touched and go when memory is short. The array passes for
        writable, since compiled code would have to be compiled again for one that is not; the file never changes by it.

        Raises:
            CorruptSnapshot: the file is missing, or has another size or content.
        """
        try:
            file = _describe(path, sha256)
            with path.open("rb") as opened:
                content = io.BytesIO(opened.read()) if file.bytes < MAPPED_BYTES_MIN else opened
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except MISSING as error:
            raise CorruptSnapshot(f"{path} is missing: {error}") from error
        if file.bytes != size:
            raise CorruptSnapshot(f"{path} has {file.bytes} bytes, the manifest says {size}")
        if found != sha256:
            raise CorruptSnapshot(f"{path} was altered: its SHA-256 is not the manifest's")
        if isinstance(content, io.BytesIO):
            content.seek(0)
            array: NDArray[Any] = np.load(content, allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
        self.remember(array, file)
        return array


def write_durably(path: Path, *content: bytes | memoryview) -> None:
    """Write bytes and wait until the disk has them."""
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(path: Path, known: StoredFile) -> StoredFile | None:
    try:
        path.hardlink_to(known.path)
    except OSError:  # it is gone, or on another disk, or on one that has no links
        return None
    linked = _describe(path, known.sha256)
    if replace(linked, path=known.path) != known:
        path.unlink()
        return None
    sync(path)  # whoever brought a file that was read may not have done so
    return linked


def _write(path: Path, array: NDArray[Any]) -> StoredFile:
    contiguous = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(contiguous))
    content = header.getvalue(), contiguous.reshape(-1).view(np.uint8).data
    # Computed from memory, not from the file: what the disk makes of it is found out when it is read.
    digest = hashlib.sha256(content[0])
    digest.update(content[1])
    write_durably(path, *content)
    return _describe(path, digest.hexdigest())


def _describe(path: Path, sha256: str) -> StoredFile:
    status = path.stat()
    return StoredFile(path, status.st_ino, status.st_size, status.st_mtime_ns, sha256)
