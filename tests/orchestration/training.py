"""Sets, configurations and twins for tests of training jobs."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from csr_model import CSRConfig, Training
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit
from orchestration.train_files import TrainingRows


def labelled_set(split: EmbeddedSplit, queries: EmbeddedSplit) -> EmbeddedSet:
    """Return a set whose labels decide."""
    return EmbeddedSet("directions", split, None, split, queries, None)


def paired_set(split: EmbeddedSplit, queries: EmbeddedSplit, paired: bool = True) -> EmbeddedSet:
    """Return a set without labels whose second half asks for the rows of the first, one pair each if `paired`."""
    half = len(split.ids) // 2
    plain = replace(split, labels=None, label_names=[])
    pairs = np.stack([np.arange(half, 2 * half), np.arange(half)], axis=1)
    return EmbeddedSet(
        "pairs", plain, pairs if paired else None, plain.keep(np.arange(half)), queries, np.zeros((1, 2), np.int64)
    )


def fingerprint_of_ranks(config: CSRConfig, rows: TrainingRows, ranks: int = 2) -> str:
    """Train without Ray and without any interruption; return the adapter's fingerprint."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_train, (ranks, folder, config, rows), nprocs=ranks)
        return (Path(folder) / "fingerprint").read_text()


def _train(rank: int, ranks: int, folder: str, config: CSRConfig, rows: TrainingRows) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=ranks, rank=rank)
    training = Training(config, rows.embeddings, rows.labels, rows.pairs, wrap=DistributedDataParallel)
    while not training.done:
        training.run_epoch()
    if rank == 0:
        (Path(folder) / "fingerprint").write_text(training.adapter().fingerprint)
    dist.destroy_process_group()
