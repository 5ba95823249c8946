"""Files of Debian's archive: fetched by apt-get into a private folder, without root; the system's apt stays as it is.

apt does the talking, so the system's mirror, proxy and keys apply. It accepts only what Debian signed. The release is
a fixed one, whatever the system itself runs.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestration.data.cache import DataUnavailable

RELEASE: Final = "bookworm"
"""In its last point release since July 2026, so its index does not move any more."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_FAILURES: Final = (
    ("No space left on device", "the disk is full"),
    ("is not signed", "what the mirror offers is not signed by Debian, so it was refused"),
    ("NO_PUBKEY", "Debian's keys are missing; install the package debian-archive-keyring"),
    ("Unable to locate package", "Debian's archive does not have it"),
    ("Could not resolve", "the mirror cannot be reached; check the network and apt's proxy settings"),
    ("Could not connect", "the mirror cannot be reached; check the network and apt's proxy settings"),
    ("Unable to connect", "the mirror cannot be reached; check the network and apt's proxy settings"),
)
"""What apt prints and what it means, the most telling first."""


@dataclass(frozen=True)
class PrivateApt:
    """apt for one release of Debian, with all its state below one folder."""

    folder: Path
    sources: str
    """A line of sources.list."""
    transport: str
    """The system's settings for downloads, such as proxies, in apt.conf's language."""

    @classmethod
    def here(cls, folder: Path) -> "PrivateApt":
        """Take mirror and proxies from the system's apt.

        Raises:
            DataUnavailable: there is no apt, or it knows no Debian mirror.
        """
        if shutil.which("apt-get") is None:
            raise DataUnavailable("this data set comes from Debian's archive and needs apt-get, which is not here")
        printed = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Component: main"], {}, "its sources")
        mirrors = [uri for uri in printed.splitlines() if uri.rstrip("/").endswith("/debian")]
        if not mirrors:
            raise DataUnavailable("this data set comes from Debian's archive, and apt here knows no mirror of it")
        settings = _run(["apt-config", "dump"], {}, "its settings").splitlines()
        signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
        return cls(
            folder,
            sources=f"deb {signed}{mirrors[0]} {RELEASE} main\n",
            transport="\n".join(line for line in settings if line.startswith("Acquire::")),
        )

    def update(self, descriptions: bool) -> None:
        """Fetch the index of packages, 9 MB, and if asked for their long descriptions, 6 MB."""
        for needed in ("lists/partial", "cache/archives/partial"):
            (self.folder / needed).mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(self.sources)
        languages = "en" if descriptions else "none"
        own = {
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",  # the system's hooks would touch the system's files
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",  # the user _apt may not write into a user's cache
            "Acquire::GzipIndexes": "false",
        }
        lines = [self.transport, *(f'{name} "{value}";' for name, value in own.items())]
        lines += ["#clear APT::Architectures;", "#clear Acquire::Languages;", f'Acquire::Languages "{languages}";']
        (self.folder / "apt.conf").write_text("\n".join(lines) + "\n")
        self._apt("update", about=f"the index of Debian {RELEASE}")

    def index(self, kind: Literal["Packages", "Translations"]) -> Path:
        """Return an index as a plain text file, after `update`."""
        printed = self._apt("indextargets", "--format", "$(FILENAME)", f"Created-By: {kind}", about=f"its {kind}")
        paths = [Path(line) for line in printed.splitlines() if Path(line).is_file()]
        if len(paths) != 1:
            raise DataUnavailable(f"apt fetched {len(paths)} files as {kind} of Debian {RELEASE} instead of one")
        return paths[0]

    def download(self, package: str) -> Path:
        """Fetch a package, after `update`, and return its .deb; nothing is installed."""
        self._apt("download", package, about=f"the Debian package {package}")
        (archive,) = self.folder.glob(f"{package}_*.deb")
        return archive

    def _apt(self, *arguments: str, about: str) -> str:
        command = ["apt-get", "--quiet", *arguments]
        return _run(command, {"APT_CONFIG": str(self.folder / "apt.conf")}, about, self.folder)


def _run(command: list[str], environment: dict[str, str], about: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    output = done.stdout + done.stderr
    # `update` succeeds with warnings when a mirror cannot be reached, because older indexes may do.
    failed = [line[3:] for line in done.stderr.splitlines() if line.startswith(("E: ", "W: Failed"))]
    if done.returncode != 0 or failed:
        meanings = [meaning for sign, meaning in APT_FAILURES if sign in output]
        reason = (meanings or failed or ["apt failed without a word"])[0]
        raise DataUnavailable(f"apt cannot fetch {about}: {reason}")
    return done.stdout
