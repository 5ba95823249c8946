"""dpkg-deb and the network's weights are real; pictures are made here."""

import gzip
import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestration.data import fashion
from orchestration.data.cache import DataUnavailable
from orchestration.data.efficientnet import EfficientNetLite0
from orchestration.data.embed import embed_pictures
from orchestration.data.packages import fetch
from orchestration.data.texts import LabelledTexts


def pictures() -> NDArray[np.uint8]:
    """Return stripes and a disc, [2, 28, 28]."""
    rows, columns = np.mgrid[0:28, 0:28]
    disc = ((rows - 14) ** 2 + (columns - 14) ** 2 < 100) * 200
    return np.stack([rows * 9 % 256, disc]).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(user_cache: Path) -> Path:
    """The network's file."""
    return fetch(fashion.EFFICIENTNET, user_cache) / fashion.WEIGHTS


def write_split(folder: Path, labels: list[int]) -> dict[str, bytes]:
    """Write the pictures as test split in the IDX format and return the files."""
    images = b"\x00\x00\x08\x03" + np.array(pictures().shape, ">i4").tobytes() + pictures().tobytes()
    numbers = b"\x00\x00\x08\x01" + np.array([len(labels)], ">i4").tobytes() + bytes(labels)
    files = {"t10k-images-idx3-ubyte.gz": gzip.compress(images), "t10k-labels-idx1-ubyte.gz": gzip.compress(numbers)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def test_features_are_those_of_the_published_network(weights: Path) -> None:
    """Every figure for Fashion-MNIST would belong to another network; expected is what the authors' code returns."""
    features = EfficientNetLite0.load(weights).embed(pictures())
    assert features.shape == (2, 1280)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), [9.8482, 34.6754], atol=1e-3)
    np.testing.assert_allclose(features[0, [872, 71, 974, 29]], [4.0615, 3.9936, 2.9713, 2.7880], atol=1e-3)
    np.testing.assert_allclose(features[1, [462, 181, 936, 1088]], [6.0, 6.0, 6.0, 5.8943], atol=1e-3)


def test_pictures_get_their_own_features_once(weights: Path, tmp_path: Path) -> None:
    """Pictures would be embedded at every start, or other pictures would get the features of these."""
    rows = LabelledTexts(("a", "b"), ("", ""), (3, 1), fashion.CLASSES)
    split = embed_pictures("set", rows, pictures(), weights, tmp_path, chunk_rows=1)
    direct = EfficientNetLite0.load(weights).embed(pictures())
    np.testing.assert_allclose(split.embeddings, direct, rtol=1e-3, atol=1e-3)
    assert embed_pictures("set", rows, pictures(), weights, tmp_path).digest == split.digest
    assert embed_pictures("set", rows, pictures()[::-1], weights, tmp_path).digest != split.digest
    assert len([path for path in (tmp_path / "embeddings").iterdir() if path.is_dir()]) == 2


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    """Pictures would get the labels of others."""
    write_split(tmp_path, [9, 0])
    rows, read = fashion.read_split(tmp_path, "test")
    np.testing.assert_array_equal(read, pictures())
    assert (rows.ids, rows.labels) == (("test-00000", "test-00001"), (9, 0))
    assert rows.label_names[9] == "ankle boot"


def test_only_known_files_leave_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuilt package with other pictures would be taken for Fashion-MNIST."""
    root = tmp_path / "root"
    files = write_split(root / "usr/share/datasets/fashion-mnist", [9, 0])
    (root / "DEBIAN").mkdir()
    control = "Package: other\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: words\n"
    (root / "DEBIAN/control").write_text(control)
    archive = tmp_path / "other.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(archive)], check=True)
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with pytest.raises(DataUnavailable, match=r"train-images-idx3-ubyte\.gz in other\.deb is not the known file"):
        fashion.extract(archive, arrived)
    monkeypatch.setattr(fashion, "FILES", {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    fashion.extract(archive, arrived)
    assert {path.name: path.read_bytes() for path in arrived.iterdir()} == files
    archive.write_bytes(b"no archive")
    with pytest.raises(DataUnavailable, match=r"other\.deb cannot be unpacked by dpkg-deb"):
        fashion.extract(archive, arrived)
