"""What each rank of a training job does. Imported on the ranks: no MLflow here."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Final, TypedDict

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint

from csr_model import CSRConfig, Training

STATE_FILE: Final = "state.pt"
ADAPTER_FOLDER: Final = "adapter"
EMBEDDINGS_FILE: Final = "embeddings.npy"
LABELS_FILE: Final = "labels.npy"


class RankTask(TypedDict):
    """What the driver tells every rank."""

    config: str
    """CSRConfig as JSON."""
    data: str
    """Folder with embeddings.npy and, when labels are used, labels.npy; the same files on every node."""


def train_on_rank(task: RankTask) -> None:
    """Train to the last epoch, from the newest checkpoint if there is one.

    Every epoch ends with a report of all ranks and a checkpoint of the first: model, optimizer, dead counters and
    position (the order of rows follows from seed and epoch, so there is no random state). The last checkpoint also
    holds the finished adapter.
    """
    training = _open_training(task)
    restored = ray.train.get_checkpoint()
    if restored is not None:
        with restored.as_directory() as folder:
            state = torch.load(Path(folder) / STATE_FILE, map_location=training.device, weights_only=True)
            training.load_state_dict(state)
    while not training.done:
        report = dataclasses.asdict(training.run_epoch())
        if ray.train.get_context().get_world_rank() > 0:
            ray.train.report(report)
            continue
        with tempfile.TemporaryDirectory() as folder:
            torch.save(training.state_dict(), Path(folder) / STATE_FILE)
            if training.done:
                training.adapter().save(Path(folder) / ADAPTER_FOLDER)
            ray.train.report(report, checkpoint=Checkpoint.from_directory(folder))


def _open_training(task: RankTask) -> Training:
    folder = Path(task["data"])
    embeddings = np.load(folder / EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False)
    labels_file = folder / LABELS_FILE
    labels = np.load(labels_file, allow_pickle=False) if labels_file.exists() else None
    device = ray.train.torch.get_device()
    return Training(CSRConfig.from_json(task["config"]), embeddings, labels, device, wrap=ray.train.torch.prepare_model)
