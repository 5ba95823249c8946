"""Compare the speed of training and encoding with sentence-transformers' SparseAutoEncoder and CSRLoss.

    python -m benchmarks.training_speed [--device cuda] [--json FILE]

Both see the same precomputed rows in the same order, batches of 256, on the same threads; runs alternate, so that what
else the machine does hits both. Ours trains k = 4 … 64 at once, each also at 4k; theirs k = 64 and 256, the losses that
the package documents. Theirs decodes auxiliary latents from the first step, ours once a latent has died. On a CPU the
clock is processor time of the process, on a GPU wall time. Then: what encoding holds in memory.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sentence_transformers import util
from sentence_transformers.sparse_encoder import SparseEncoder
from sentence_transformers.sparse_encoder.losses import CSRLoss, SparseMultipleNegativesRankingLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from benchmarks.encoding_memory import Memory, encoding_memory
from csr_model import CSRConfig
from csr_model.baselines.random_atoms import random_atoms
from csr_model.batches import Pairs
from csr_model.training import Training

Floats = np.ndarray[Any, np.dtype[np.float32]]
Run = Callable[[], object]

THEIRS = "sentence-transformers"
_SEED = 0
_CLASSES = 64
_K = 64
_ENCODED_K = 32


@dataclass(frozen=True)
class Workload:
    """What one comparison runs.

    Attributes:
        input_dim: d.
        hidden_dim: h.
        batch_size: Rows of a step; theirs splits them into anchors and positives.
        steps: In one timed run.
        rounds: Timed runs of each, after one that is not.
    """

    input_dim: int
    hidden_dim: int
    batch_size: int = 256
    steps: int = 2
    rounds: int = 5

    @property
    def rows(self) -> int:
        """Rows that one run sees."""
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Comparison:
    """Ours against theirs.

    Attributes:
        task: What ours did.
        rows_per_second: Ours, of the median run.
        their_rows_per_second: Theirs.
        ratio_of_best: Their shortest run over ours; above 1, ours is faster.
        ratio_of_medians: The same of the median runs.
    """

    task: str
    input_dim: int
    hidden_dim: int
    rows_per_second: float
    their_rows_per_second: float
    ratio_of_best: float
    ratio_of_medians: float


WORKLOADS = (Workload(384, 1536, steps=4), Workload(384, 3072, steps=3), Workload(1280, 5120, rounds=4))


def compare(workload: Workload, device: str) -> list[Comparison]:
    """Time training for each objective, and encoding."""
    rows, classes = clustered_rows(workload.rows, workload.input_dim)
    half = len(rows) // 2
    pairs = Pairs(np.arange(half), np.arange(half) + half)
    training: dict[str, Run] = {
        "train, rows alone": _our_steps(workload, device, rows),
        "train, labels": _our_steps(workload, device, rows, labels=classes),
        "train, pairs": _our_steps(workload, device, rows, pairs=pairs),
        THEIRS: _their_steps(workload, device, rows),
    }
    adapter = random_atoms(_repeated(rows, workload.hidden_dim), _configuration(workload))
    adapter.autoencoder.to(device)
    encoding: dict[str, Run] = {
        f"encode, k = {_ENCODED_K}": partial(adapter.encode, rows, _ENCODED_K),
        THEIRS: _their_encoding(workload, device, rows),
    }
    return [found for runs in (training, encoding) for found in _compared(workload, timed(runs, workload, device))]


def clustered_rows(count: int, input_dim: int) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return rows around 64 random directions, and which one each is near."""
    random = np.random.default_rng(_SEED)
    centres, classes = random.normal(size=(_CLASSES, input_dim)), random.integers(_CLASSES, size=count)
    return (centres[classes] + random.normal(size=(count, input_dim))).astype(np.float32), classes


def timed(runs: Mapping[str, Run], workload: Workload, device: str) -> dict[str, list[float]]:
    """Return the seconds of each round of each run; rounds alternate between the runs."""
    clock = time.process_time if device == "cpu" else partial(_finished_at, device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(workload.rounds):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return seconds


def _finished_at(device: str) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _compared(workload: Workload, seconds: Mapping[str, list[float]]) -> Iterator[Comparison]:
    theirs = seconds[THEIRS]
    for task, ours in seconds.items():
        if task != THEIRS:
            yield Comparison(
                task,
                workload.input_dim,
                workload.hidden_dim,
                rows_per_second=workload.rows / median(ours),
                their_rows_per_second=workload.rows / median(theirs),
                ratio_of_best=min(theirs) / min(ours),
                ratio_of_medians=median(theirs) / median(ours),
            )


def _configuration(workload: Workload, **chosen: Any) -> CSRConfig:
    epochs = 10 + 10 * workload.rounds  # never reaches the end of its schedule
    sizes = {"hidden_dim": workload.hidden_dim, "batch_size": workload.batch_size, "epochs": epochs}
    return CSRConfig.automatic(workload.input_dim, workload.rows, seed=_SEED, **sizes, **chosen)


def _our_steps(
    workload: Workload,
    device: str,
    rows: Floats,
    labels: np.ndarray[Any, Any] | None = None,
    pairs: Pairs | None = None,
) -> Run:
    weights = {"gamma_labels": float(labels is not None), "gamma_pairs": 0.1 * (pairs is not None)}
    return Training(_configuration(workload, **weights), rows, labels, pairs, device).run_epoch


def _their_steps(workload: Workload, device: str, rows: Floats) -> Run:
    torch.manual_seed(_SEED)
    module = _their_module(workload)
    model = SparseEncoder(modules=[module], device=device)
    contrast = SparseMultipleNegativesRankingLoss(model, scale=20.0, similarity_fct=util.cos_sim)
    loss = CSRLoss(model, contrast, beta=0.1, gamma=0.1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    model.train()

    def run() -> None:
        for batch in np.split(rows, workload.steps):
            columns = torch.from_numpy(batch).to(device).chunk(2)
            optimizer.zero_grad()
            losses = loss([{"sentence_embedding": column} for column in columns])
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

    return run


def _their_encoding(workload: Workload, device: str, rows: Floats) -> Run:
    torch.manual_seed(_SEED)
    module = _their_module(workload).to(device).eval()

    def run() -> None:
        with torch.inference_mode():
            for batch in np.split(rows, workload.steps):
                features = {"sentence_embedding": torch.from_numpy(batch).to(device)}
                module(features, max_active_dims=_ENCODED_K)["sentence_embedding"].to_sparse().cpu()

    return run


def _their_module(workload: Workload) -> SparseAutoEncoder:
    return SparseAutoEncoder(workload.input_dim, workload.hidden_dim, k=_K, k_aux=workload.input_dim // 2)


def _repeated(rows: Floats, count: int) -> Floats:
    return np.tile(rows, (-(-count // len(rows)), 1))[:count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False, soft_wrap=True)
    unit = "CPU second" if arguments.device == "cpu" else "second"
    console.print(f"rows per {unit}, {arguments.threads} threads, batches of 256; × = their time / ours")
    found: list[Comparison] = []
    for workload in WORKLOADS:
        for line in compare(workload, arguments.device):
            found.append(line)
            console.print(
                f"d={line.input_dim:<5}h={line.hidden_dim:<5}{line.task:18}ours {line.rows_per_second:8,.0f}   "
                f"theirs {line.their_rows_per_second:8,.0f}   median ×{line.ratio_of_medians:.2f}   "
                f"best ×{line.ratio_of_best:.2f}"
            )
    # A new process: this one has freed memory to reuse, in which growth would not show.
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        held = fresh.submit(encoding_memory).result()
    console.print(memory_text(held))
    if arguments.json:
        report = {
            "device": arguments.device,
            "threads": arguments.threads,
            "speed": [asdict(line) for line in found],
            "memory": asdict(held),
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def memory_text(held: Memory) -> str:
    """Return what was found, in MiB."""
    mib = 2**20
    sizes = ", ".join(f"{rows:,}: {size / mib:.0f}" for rows, size in held.streamed.items())
    disk = held.file / max(held.streamed) * 10_000_000
    return (
        f"encode of {held.encoded_rows:,} rows at d=64: {held.encode_growth / mib:.0f} MiB more at most, "
        f"of which {held.encode_output / mib:.0f} MiB are the codes\n"
        f"encode_to, MiB of the process after rows: {sizes}; the file has {held.file / mib:.0f} MiB\n"
        f"extrapolated, not measured: 10,000,000 rows need the same memory and {disk / mib:,.0f} MiB of disk"
    )


if __name__ == "__main__":
    main()
