"""apt is real in every test; the archive is a small one in a folder."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from orchestration.data.apt import RELEASE, PrivateApt
from orchestration.data.cache import DataUnavailable

MD5 = "0123456789abcdef" * 2
SYSTEM_STATE = (Path("/var/lib/apt/lists"), Path("/var/cache/apt"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An unsigned archive with the package `tiny-words`."""
    root = tmp_path / "tiny-words"
    (root / "DEBIAN").mkdir(parents=True)
    control = "Package: tiny-words\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: words\n"
    (root / "DEBIAN" / "control").write_text(control)
    (root / "words").write_text("one two\n")
    archive = tmp_path / "archive"
    release = archive / "dists" / RELEASE
    indexes = {release / "main/binary-amd64/Packages": "", release / "main/i18n/Translation-en": ""}
    for path in indexes:
        path.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--build", str(root), str(archive / "tiny-words_1_all.deb")], check=True)
    data = (archive / "tiny-words_1_all.deb").read_bytes()
    where = f"Filename: tiny-words_1_all.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    packages, translations = indexes
    packages.write_text(control + f"Description-md5: {MD5}\n" + where)
    translations.write_text(f"Package: tiny-words\nDescription-md5: {MD5}\nDescription-en: words\n very few words\n")
    hashes = "".join(
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(release)}\n"
        for path in indexes
    )
    head = f"Codename: {RELEASE}\nArchitectures: amd64\nComponents: main\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n"
    (release / "Release").write_text(f"{head}SHA256:\n{hashes}")
    return archive


def private_apt(folder: Path, archive: Path, options: str = "[trusted=yes]") -> PrivateApt:
    """Return apt for that archive."""
    folder.mkdir()
    return PrivateApt(folder, f"deb {options} copy:{archive} {RELEASE} main\n", transport="")


def _times(folders: tuple[Path, ...]) -> list[tuple[str, int]]:
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return sorted((str(path), path.stat().st_mtime_ns) for path in paths)


def test_indexes_and_packages_arrive_and_the_system_stays_as_it_is(archive: Path, tmp_path: Path) -> None:
    """`csr data debian` would fail, or change which packages the user's next apt-get sees."""
    before = _times(SYSTEM_STATE)
    apt = private_apt(tmp_path / "apt", archive)
    apt.update(descriptions=True)
    assert apt.index("Packages").read_text().startswith("Package: tiny-words")
    assert "very few words" in apt.index("Translations").read_text()
    assert apt.download("tiny-words").read_bytes() == (archive / "tiny-words_1_all.deb").read_bytes()
    assert apt.index("Packages").is_relative_to(tmp_path)
    assert _times(SYSTEM_STATE) == before


def test_descriptions_are_left_out_unless_asked_for(archive: Path, tmp_path: Path) -> None:
    """Fetching a package would take megabytes that nobody reads."""
    apt = private_apt(tmp_path / "apt", archive)
    apt.update(descriptions=False)
    assert not list(apt.folder.rglob("*Translation*"))


def test_what_debian_did_not_sign_is_refused(archive: Path, tmp_path: Path) -> None:
    """A mirror, or somebody between, could put anything into the data."""
    with pytest.raises(DataUnavailable, match="is not signed by Debian, so it was refused"):
        private_apt(tmp_path / "apt", archive, options="").update(descriptions=False)


def test_a_changed_package_is_refused(archive: Path, tmp_path: Path) -> None:
    """A damaged download would be unpacked."""
    apt = private_apt(tmp_path / "apt", archive)
    apt.update(descriptions=False)
    path = archive / "tiny-words_1_all.deb"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataUnavailable, match="apt cannot fetch the Debian package tiny-words"):
        apt.download("tiny-words")


def test_a_missing_archive_or_package_is_one_clear_line(archive: Path, tmp_path: Path) -> None:
    """A user would read pages of apt's output."""
    with pytest.raises(DataUnavailable, match=r"^apt cannot fetch the index of Debian bookworm: .+") as caught:
        private_apt(tmp_path / "nowhere", tmp_path / "missing").update(descriptions=False)
    assert "\n" not in str(caught.value)
    apt = private_apt(tmp_path / "apt", archive)
    apt.update(descriptions=False)
    with pytest.raises(DataUnavailable, match="no-such-package: Debian's archive does not have it"):
        apt.download("no-such-package")


def test_mirror_and_proxy_are_the_systems(tmp_path: Path) -> None:
    """Behind a company's proxy or mirror nothing could be fetched."""
    apt = PrivateApt.here(tmp_path)
    assert apt.sources.startswith("deb ")
    assert apt.sources.rstrip().endswith(f"{RELEASE} main")
    assert all(line.startswith("Acquire::") for line in apt.transport.splitlines())


def test_without_apt_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system than Debian the command would end in a traceback."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(DataUnavailable, match="needs apt-get, which is not here"):
        PrivateApt.here(tmp_path)
