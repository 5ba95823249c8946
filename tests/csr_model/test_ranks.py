"""Two real gloo processes against one: what distributed training must not change."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from csr_model import CSRConfig, InvalidConfig, Training
from csr_model.batches import Pairs
from csr_model.codes import Codes
from csr_model.dead_latents import DeadLatents
from csr_model.losses import Batch, CSRLoss
from tests.csr_model.conftest import started

RANKS = 2
PAIRS_PER_RANK = 8
CONFIG = CSRConfig(
    input_dim=16,
    hidden_dim=48,
    levels=(2, 4, 8),
    k_aux=6,
    batch_size=64,
    epochs=2,
    dead_after_rows=150,
    beta=0.5,
    gamma_labels=0.5,
)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "reconstruction": {"gamma_labels": 0.0},
    "labels": {},
    "pairs": {"gamma_pairs": 0.7},
    "neighbours": {"gamma_neighbours": 0.9},
    "everything": {"gamma_pairs": 0.7, "gamma_neighbours": 0.9, "anneal_from": 16},
}
RUNS: dict[str, dict[str, Any]] = {
    "labels": {},
    "resampling": {"dead_after_rows": 40, "latent_offset": -3.0},
    "two stages, pairs": {"gamma_labels": 0.0, "gamma_pairs": 0.7, "linear_map": "pairs", "map_examples": 400},
    "map of labels": {"gamma_labels": 0.0, "linear_map": "labels", "map_examples": 400},
    "neighbours": {"gamma_neighbours": 0.9, "anneal_from": 16},
    "paper": dataclasses.asdict(CSRConfig.paper(16, 4, hidden_dim=48, batch_size=32, epochs=2, dead_after_rows=64)),
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return 200 float64 rows in six classes."""
    random = np.random.default_rng(5)
    labels = random.integers(6, size=200)
    return random.normal(size=(6, 16))[labels] + 0.4 * random.normal(size=(200, 16)), labels


def pairs() -> Pairs:
    """Pair each row of the first half with one of its class in the second."""
    _, labels = data()
    documents = [int(np.flatnonzero(labels[100:] == label)[0]) + 100 for label in labels[:100]]
    return Pairs(np.arange(100), np.array(documents))


def batch(rank: int | None) -> Batch:
    """Return a rank's part of 64 rows with 16 pairs, or all of them in the ranks' order."""
    x, y = data()
    x[[3, 12]] = 2 * x[40]  # alike and on different ranks: false negatives of each other
    queries, documents, others = (np.array_split(np.arange(64)[part], RANKS) for part in _PARTS)
    ranks = range(RANKS) if rank is None else [rank]
    rows = np.concatenate([side[r] for side in (queries, documents, others) for r in ranks])
    return Batch(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]), PAIRS_PER_RANK * len(ranks))


_PARTS = (slice(0, 16), slice(16, 32), slice(32, 64))


def gradients(settings: CSRConfig, part: Batch, ddp: bool) -> dict[str, Any]:
    """Return gradients and codes of one backward pass in float64, with six latents dead."""
    model = started(settings, data()[0]).double()
    with torch.no_grad():
        model.pre_bias.fill_(0.03)
        model.latent_bias.copy_(torch.linspace(-0.1, 0.1, 48))
    objective: torch.nn.Module = CSRLoss(model, settings).double()
    wrapped = DistributedDataParallel(objective) if ddp else objective
    losses = wrapped(part, torch.arange(48) < 6, 0.1)
    losses.total.backward()
    grads = {name: parameter.grad for name, parameter in objective.named_parameters()}
    return {"grads": grads, "codes": (losses.latents, losses.weights)}


def run(name: str, **wrap: Any) -> dict[str, Any]:
    """Train one of `RUNS` to its end and return what must not depend on the number of ranks."""
    changes = dict(RUNS[name])
    offset = changes.pop("latent_offset", 0.0)
    x, y = data()
    training = Training(CSRConfig.from_fields(vars(CONFIG) | changes), x, y, pairs(), **wrap)
    training.run_epoch()
    with torch.no_grad():
        training.autoencoder.latent_bias[:5] += offset
    while not training.done:
        training.run_epoch()
    return {
        "weights": training.autoencoder.state_dict(),
        "totals": [report.total for report in training.history],
        "dead": training.state_dict()["dead_latents"],
        "resampled": training.resampled,
    }


def worker(rank: int, folder: str) -> None:
    """Compute everything that the tests compare, as one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    result: dict[str, Any] = {"steps": {}, "runs": {}}
    for name, changes in OBJECTIVES.items():
        result["steps"][name] = gradients(dataclasses.replace(CONFIG, **changes), batch(rank), ddp=True)
    dead = DeadLatents(48, 20)
    dead.advance(Codes(*result["steps"]["labels"]["codes"]))
    result["rows_since_fired"] = dead.rows_since_fired
    for name in RUNS:
        result["runs"][name] = run(name, wrap=DistributedDataParallel)
    x, y = data()
    try:
        Training(dataclasses.replace(CONFIG, batch_size=63), x, y)
    except InvalidConfig as error:
        result["odd_batch"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank computed."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_equal_one_rank_with_both_batches(ranks: list[dict[str, Any]], name: str) -> None:
    """No loss may depend on how many workers share a batch: negatives, offsets and normalisers agree."""
    alone = gradients(dataclasses.replace(CONFIG, **OBJECTIVES[name]), batch(None), ddp=False)["grads"]
    assert sum(bool(gradient.abs().sum() > 0) for gradient in alone.values()) == len(alone)
    for rank in ranks:
        for parameter, gradient in alone.items():
            theirs = rank["steps"][name]["grads"][parameter]
            torch.testing.assert_close(theirs, gradient, rtol=1e-10, atol=1e-10)


def test_counters_agree(ranks: list[dict[str, Any]]) -> None:
    """A latent that fires on any rank is alive on all, or ranks would revive different latents."""
    dead = DeadLatents(48, 20)
    dead.advance(Codes(*gradients(CONFIG, batch(None), ddp=False)["codes"]))
    for rank in ranks:
        assert torch.equal(rank["rows_since_fired"], dead.rows_since_fired)


@pytest.mark.parametrize("name", RUNS)
def test_whole_run_matches_one_rank(ranks: list[dict[str, Any]], name: str) -> None:
    """A run on two workers gives both the same model, and the one that a single worker trains, up to rounding."""
    one, other = (rank["runs"][name] for rank in ranks)
    for tensor_name, tensor in one["weights"].items():
        assert torch.equal(tensor, other["weights"][tensor_name]), tensor_name
    assert one["totals"] == other["totals"]
    assert one["resampled"] == other["resampled"]
    torch.testing.assert_close(one["dead"], other["dead"], rtol=0, atol=0)
    alone = run(name)
    assert alone["totals"] == pytest.approx(one["totals"], rel=1e-3)
    assert alone["resampled"] == one["resampled"]
    assert (alone["resampled"] > 0) == (name == "resampling")
    if "map" in name or "stages" in name:
        torch.testing.assert_close(alone["weights"]["linear_map"], one["weights"]["linear_map"], rtol=1e-4, atol=1e-5)


def test_batch_must_split_evenly(ranks: list[dict[str, Any]]) -> None:
    """An uneven split would weigh rows differently on each rank."""
    assert ranks[0]["odd_batch"].startswith("batch_size is 63; it must be a multiple of 2")
