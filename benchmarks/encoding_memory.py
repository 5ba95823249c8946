"""What encoding holds in memory: one large call, and a stream that is written to a file."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil

from csr_model import CSRAdapter, CSRConfig
from csr_model.baselines.random_atoms import random_atoms

Floats = np.ndarray[Any, np.dtype[np.float32]]

_INPUT_DIM = 64
_LATENTS_FROM = 4_096
_K = 32


@dataclass(frozen=True)
class Memory:
    """What encoding holds, in bytes.

    Attributes:
        encoded_rows: Rows of one call of `encode`.
        encode_growth: Most that the process grew by during the call.
        encode_output: Of that, the codes that it returned.
        streamed: Rows written by `encode_to` so far → size of the process.
        file: Size of the finished file.
    """

    encoded_rows: int
    encode_growth: int
    encode_output: int
    streamed: dict[int, int]
    file: int


def encoding_memory(encoded_rows: int = 200_000, streamed_rows: int = 1_000_000, batch_rows: int = 10_000) -> Memory:
    """Measure one call of `encode`, and `encode_to` over a generator of batches, at d = 64 and h = 512."""
    rows = np.random.default_rng(0).standard_normal((encoded_rows, _INPUT_DIM), np.float32)
    adapter = random_atoms(rows[:_LATENTS_FROM], CSRConfig.automatic(_INPUT_DIM, _LATENTS_FROM))
    adapter.encode(rows[:batch_rows], _K)
    before = _resident()
    with _Peak() as peak:
        codes = adapter.encode(rows, _K)
    output = codes.latents.nbytes + codes.weights.nbytes
    del codes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npy"
        streamed = _stream(adapter, path, rows[:batch_rows], streamed_rows)
        return Memory(encoded_rows, peak.bytes - before, output, streamed, path.stat().st_size)


def _stream(adapter: CSRAdapter, path: Path, batch: Floats, count: int) -> dict[int, int]:
    sizes: dict[int, int] = {}

    def batches() -> Iterator[Floats]:
        for start in range(0, count, len(batch)):
            yield batch + np.float32(start / count)  # a new array, as a reader of files makes them
            done = start + len(batch)
            if done % (count // 10) == 0:
                sizes[done] = _resident()

    adapter.encode_to(path, batches(), _K)
    return sizes


class _Peak:
    """Samples the size of the process while it is open."""

    def __enter__(self) -> "_Peak":
        self.bytes = _resident()
        self._stop = Event()
        self._thread = Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, _resident())


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
