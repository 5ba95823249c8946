"""What the driver and the ranks of a training job exchange by way of the job's folder.

The driver writes the data once, before anything starts: embeddings.npy, unless they are a file that ranks can read
where it is; labels.npy, pairs.npy, ids.json and held_out.npz where there are any. The first rank writes back what the
recipe chose (choice.json) and where it stands (progress.json), each whole or not at all.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from csr_model import CSRConfig
from csr_model.batches import Pairs
from csr_model.recipe import Choice
from orchestration.data.sets import EmbeddedSet
from orchestration.validation_set import HeldOutRows

_EMBEDDINGS: Final = "embeddings.npy"
_LABELS: Final = "labels.npy"
_PAIRS: Final = "pairs.npy"
_IDS: Final = "ids.json"
_HELD_OUT: Final = "held_out.npz"
_CHOICE: Final = "choice.json"
_PROGRESS: Final = "progress.json"

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class TrainingProgress:
    """Where a job stands, for people.

    Attributes:
        phase: `starting` until the workers run; `choosing` while the recipe does; then `training`, `registering`,
            `measuring`.
        epochs_done: Finished epochs.
        epochs: Epochs of the whole run; 0 until they are known.
        share: Of the run's steps that are done, 0 … 1.
        metrics: Of the newest epoch, csr_model's EpochReport by field; `total` may be newer. Empty before the first.
        choice: What the recipe chose; None where it has not yet, or the configuration was given.
    """

    phase: Literal["starting", "choosing", "training", "registering", "measuring"]
    epochs_done: int = 0
    epochs: int = 0
    share: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    choice: Choice | None = None


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What an adapter is trained on.

    Attributes:
        embeddings: [n, d], in memory, memory-mapped, or chosen rows of such.
        labels: [n], or None.
        pairs: Rows of the embeddings, or None.
        ids: [n] names, or None.
    """

    embeddings: Array
    labels: Array | None
    pairs: Pairs | None
    ids: list[str] | None

    def without(self, held_out: HeldOutRows | None) -> "TrainingRows":
        """Return what is left to learn from; no embedding is copied."""
        if held_out is None:
            return self
        rows, pairs = held_out.learned, held_out.pairs
        return TrainingRows(
            embeddings=cast(Array, _ChosenRows(self.embeddings, rows)),
            labels=None if self.labels is None else self.labels[rows],
            pairs=None if pairs is None else Pairs(pairs[:, 0], pairs[:, 1]),
            ids=None if self.ids is None else [self.ids[row] for row in rows],
        )


class _ChosenRows:
    """Chosen rows of a two-dimensional array, read when they are asked for; as much of an array as training uses."""

    ndim = 2

    def __init__(self, array: Array, rows: NDArray[np.int64]) -> None:
        self._array = array
        self._rows = rows
        self.shape = (len(rows), array.shape[1])
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Array:
        return self._array[self._rows[chosen]]


def training_rows(data: EmbeddedSet) -> TrainingRows:
    """Return what a set offers to learn from."""
    pairs = None if data.pairs is None or not len(data.pairs) else Pairs(data.pairs[:, 0], data.pairs[:, 1])
    return TrainingRows(data.train.embeddings, data.train.labels, pairs, data.train.ids)


def write_rows(folder: Path, rows: TrainingRows, held_out: HeldOutRows | None) -> Path:
    """Write what ranks need into the job's folder; return the file of the embeddings, which may be the user's own."""
    if rows.labels is not None:
        np.save(folder / _LABELS, rows.labels)
    if rows.pairs is not None:
        np.save(folder / _PAIRS, np.stack(rows.pairs, axis=1))
    if rows.ids is not None:
        (folder / _IDS).write_text(json.dumps(rows.ids))
    if held_out is not None:
        arrays = {name: value for name, value in vars(held_out).items() if value is not None}
        np.savez(folder / _HELD_OUT, **arrays)
    if (file := _file_of(rows.embeddings)) is not None:
        return file
    np.save(folder / _EMBEDDINGS, np.ascontiguousarray(rows.embeddings, dtype=np.float32))
    return folder / _EMBEDDINGS


def read_rows(folder: Path, embeddings: Path) -> tuple[TrainingRows, HeldOutRows | None]:
    """Return what `write_rows` wrote, the embeddings memory-mapped."""
    pairs = _optional(folder / _PAIRS)
    ids = folder / _IDS
    rows = TrainingRows(
        embeddings=np.load(embeddings, mmap_mode="r", allow_pickle=False),
        labels=_optional(folder / _LABELS),
        pairs=None if pairs is None else Pairs(pairs[:, 0], pairs[:, 1]),
        ids=json.loads(ids.read_text()) if ids.exists() else None,
    )
    if not (folder / _HELD_OUT).exists():
        return rows, None
    with np.load(folder / _HELD_OUT, allow_pickle=False) as arrays:
        held_out = {name: arrays[name] for name in arrays.files}
    return rows, HeldOutRows(**{"pairs": None, "relevant": None, **held_out})


def write_choice(folder: Path, choice: Choice) -> None:
    """Tell the driver what the recipe chose, and the ranks that come after a restart."""
    _write(folder / _CHOICE, {**vars(choice), "config": dataclasses.asdict(choice.config)})


def read_choice(folder: Path) -> Choice | None:
    """Return what the recipe chose; None where it has not yet."""
    fields = _read(folder / _CHOICE)
    return None if fields is None else Choice(**{**fields, "config": CSRConfig.from_fields(fields["config"])})


def write_progress(folder: Path, progress: TrainingProgress) -> None:
    """Tell the driver where training stands; the choice is told by `write_choice`."""
    _write(folder / _PROGRESS, {name: value for name, value in vars(progress).items() if name != "choice"})


def read_progress(folder: Path) -> TrainingProgress:
    """Return what was told last, with what the recipe chose."""
    told = _read(folder / _PROGRESS) or {"phase": "starting"}
    return TrainingProgress(**told, choice=read_choice(folder))


def _file_of(array: Array) -> Path | None:
    """Return the .npy file that an array maps as a whole, if it does."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    file = Path(array.filename).absolute()
    try:
        whole = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    alike = (whole.shape, whole.dtype, whole.strides) == (array.shape, array.dtype, array.strides)
    return file if alike and isinstance(whole, np.memmap) and whole.offset == array.offset else None


def _optional(file: Path) -> Array | None:
    return np.load(file, allow_pickle=False) if file.exists() else None


def _write(file: Path, value: Mapping[str, Any]) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value))
    unfinished.replace(file)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], json.loads(file.read_text()))
    except FileNotFoundError:
        return None
