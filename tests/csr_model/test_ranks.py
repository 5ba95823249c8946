"""Two real gloo processes against one: what distributed training must not change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from csr_model import CSRConfig, InvalidConfig, Training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes
from csr_model.dead_latents import DeadLatents
from csr_model.losses import CSRLoss

RANKS = 2
CONFIG = CSRConfig(
    input_dim=16,
    hidden_dim=48,
    levels=(2, 4, 8),
    k_aux=6,
    batch_size=64,
    epochs=2,
    dead_after_rows=150,
    beta=0.5,
    gamma=0.5,
)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return 200 float64 rows in six classes."""
    random = np.random.default_rng(5)
    labels = random.integers(6, size=200)
    return random.normal(size=(6, 16))[labels] + 0.4 * random.normal(size=(200, 16)), labels


def gradients(objective: torch.nn.Module, model: CSRAutoencoder, rows: slice) -> dict[str, Any]:
    """Return gradients and codes of one backward pass in float64, with six latents dead."""
    x, y = data()
    losses = objective(torch.from_numpy(x[rows]), torch.arange(48) < 6, torch.from_numpy(y[rows]))
    losses.total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"grads": grads, "codes": (losses.latents, losses.weights)}


def float64_model() -> CSRAutoencoder:
    """Return the model that both sides start from."""
    model = CSRAutoencoder.from_rows(CONFIG, torch.from_numpy(data()[0]).float(), torch.zeros(16), 1.0).double()
    with torch.no_grad():
        model.pre_bias.fill_(0.03)
        model.latent_bias.copy_(torch.linspace(-0.1, 0.1, 48))
    return model


def worker(rank: int, folder: str) -> None:
    """Compute everything that the tests compare, as one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    model = float64_model()
    objective = DistributedDataParallel(CSRLoss(model, CONFIG).double())
    result = gradients(objective, model, slice(rank * 32, rank * 32 + 32))
    dead = DeadLatents(48, 20)
    dead.advance(Codes(*result["codes"]))
    x, y = data()
    training = Training(CONFIG, x, y, wrap=DistributedDataParallel)
    while not training.done:
        training.run_epoch()
    try:
        Training(CSRConfig.from_fields(vars(CONFIG) | {"batch_size": 63}), x, y)
    except InvalidConfig as error:
        result["odd_batch"] = str(error)
    result |= {
        "rows_since_fired": dead.rows_since_fired,
        "weights": training.autoencoder.state_dict(),
        "totals": [report.total for report in training.history],
        "dead": training.state_dict()["dead_latents"],
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank computed."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_gradients_equal_one_rank_with_both_batches(ranks: list[dict[str, Any]]) -> None:
    """Reconstruction, auxiliary and contrastive loss must not depend on how many workers share a batch."""
    model = float64_model()
    alone = gradients(CSRLoss(model, CONFIG).double(), model, slice(0, 64))["grads"]
    for rank in ranks:
        for name, gradient in alone.items():
            torch.testing.assert_close(rank["grads"][name], gradient, rtol=1e-10, atol=1e-10)


def test_counters_agree(ranks: list[dict[str, Any]]) -> None:
    """A latent that fires on any rank is alive on all, or ranks would revive different latents."""
    model = float64_model()
    alone = gradients(CSRLoss(model, CONFIG).double(), model, slice(0, 64))["codes"]
    dead = DeadLatents(48, 20)
    dead.advance(Codes(*alone))
    for rank in ranks:
        assert torch.equal(rank["rows_since_fired"], dead.rows_since_fired)


def test_whole_run_matches_one_rank(ranks: list[dict[str, Any]]) -> None:
    """A run on two workers gives both the same model, and the one that a single worker trains, up to rounding."""
    one, other = ranks
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, other["weights"][name])
    assert one["totals"] == other["totals"]
    torch.testing.assert_close(one["dead"], other["dead"], rtol=0, atol=0)
    x, y = data()
    alone = Training(CONFIG, x, y)
    totals = [alone.run_epoch().total for _ in range(CONFIG.epochs)]
    assert totals == pytest.approx(one["totals"], rel=1e-3)


def test_batch_must_split_evenly(ranks: list[dict[str, Any]]) -> None:
    """An uneven split would weigh rows differently on each rank."""
    assert ranks[0]["odd_batch"] == "batch_size is 63; it must be a multiple of 2 ranks"
