from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from csr_model import CSRConfig, InvalidTrainingData, Training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.losses import Batch, CSRLoss
from csr_model.losses.contrastive import label_loss, neighbour_loss, pair_loss
from csr_model.losses.csr import annealed_levels

Make = Callable[..., CSRConfig]


def unit(rows: Tensor) -> Tensor:
    """Scale rows to length 1."""
    return rows / rows.norm(dim=1, keepdim=True)


def dense_code(values: Tensor, k: int) -> Tensor:
    """Return ReLU(TopK(a, k)) as rows [n, h]."""
    return values.relu() * (values >= values.topk(k, dim=1).values[:, -1:])


def test_total_is_the_documented_sum(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, labels: np.ndarray
) -> None:
    """L = mean_k[L(k) + L(4k)/8] + β·L_aux + Σ γ·L, written out in float64 with dense codes."""
    settings = config(gamma_labels=0.7, gamma_pairs=0.4, gamma_neighbours=1.3, beta=0.3)
    model = model.double()
    x, y = torch.from_numpy(embeddings[:40]).double(), torch.from_numpy(labels[:40])
    x[13], pairs = x[12] * 2, 10  # documents 2 and 3 are alike, so neither is the other's negative
    dead = torch.zeros(48, dtype=torch.bool)
    dead[:10] = True
    objective = CSRLoss(model, settings).double()
    with torch.no_grad():
        objective.log_factors.copy_(torch.tensor([0.1, -0.2, 0.3]))
        losses = objective(Batch(x, y, pairs), dead, 0.0)
        preprocessed = model.preprocess(x)
        a = model.pre_activations(preprocessed)

        def missed(k: int) -> Tensor:
            gain = model.log_gain[model.decode_ks.index(k)].exp()
            return preprocessed - (gain * dense_code(a, k) @ model.weight + model.pre_bias)

        reconstruction = sum(
            missed(k).square().sum(1).mean() + missed(4 * k).square().sum(1).mean() / 8 for k in (2, 4, 8)
        )
        aux = dense_code(a.masked_fill(~dead, -torch.inf), 6) @ model.weight
        auxiliary = (missed(8) - aux).square().sum() / missed(8).square().sum()
        queries, documents, others = unit(x[:pairs]), unit(x[pairs : 2 * pairs]), unit(x[2 * pairs :])
        same_query, same_document = (
            unit(side - side.mean(0)) @ unit(side - side.mean(0)).T > 0.95 for side in (queries, documents)
        )
        assert same_document[2, 3]
        contrastive = torch.zeros((), dtype=torch.float64)
        for level, k in enumerate((2, 4, 8)):
            z = unit(dense_code(a, k))
            q, d, o = z[:pairs], z[pairs : 2 * pairs], z[2 * pairs :]
            factor = objective.log_factors[level]
            contrastive += 0.7 * label_loss(z @ z.T, y, y, settings.temperature_labels)
            contrastive += 0.4 * pair_loss(q @ d.T, d @ q.T, same_document, same_query, settings.temperature_pairs)
            contrastive += 1.3 * neighbour_loss(o @ o.T, others @ others.T, factor, settings.temperature_neighbours)
    torch.testing.assert_close(losses.reconstruction, reconstruction / 3)
    torch.testing.assert_close(losses.auxiliary, auxiliary)
    torch.testing.assert_close(losses.contrastive, contrastive / 3)
    torch.testing.assert_close(losses.total, reconstruction / 3 + 0.3 * auxiliary + contrastive / 3)


@pytest.mark.parametrize("dead_latents", [0, 5])
def test_the_4k_branch_reaches_live_latents(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, dead_latents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere an in-place mask left this branch only dead latents, so it trained nothing; here live ones learn."""
    only_the_last = [0.0, 0.0, 0.0, 0.0, 1.0]  # of 2, 4, 8, 16, 32: only 4·8
    monkeypatch.setattr("csr_model.losses.csr.reconstruction_weights", lambda levels, ks: only_the_last)
    x = torch.from_numpy(embeddings[:20])
    CSRLoss(model, config(beta=0.0))(Batch(x, None, 0), torch.arange(48) < dead_latents, 0.0).total.backward()
    codes = model.encode(x, 32)
    beyond_k = codes.latents[:, 8:][codes.weights[:, 8:] > 0].unique()
    live = beyond_k[beyond_k >= dead_latents]
    assert len(live) > 20
    assert model.latent_bias.grad is not None
    assert (model.latent_bias.grad[live] != 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gamma_labels": 0.5},
        {"gamma_pairs": 0.5},
        {"gamma_neighbours": 0.5},
        {"anneal_from": 16},
        {"precision": "bfloat16", "gamma_labels": 0.5},
    ],
    ids=str,
)
def test_every_parameter_gets_a_gradient(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, labels: np.ndarray, changes: dict[str, float]
) -> None:
    """DistributedDataParallel would hang on a parameter that takes no part in the loss."""
    x, y = torch.from_numpy(embeddings[:20]), torch.from_numpy(labels[:20])
    objective = CSRLoss(model, config(**changes))
    objective(Batch(x, y, 5), None, 0.3).total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gamma_labels": 0.5}, "gamma_labels is above 0 but there are no labels"),
        ({"gamma_pairs": 0.5}, "gamma_pairs is above 0 but there are no pairs"),
    ],
)
def test_missing_supervision_is_an_error(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, changes: dict[str, float], says: str
) -> None:
    """A contrast without anything to contrast must not become a silent zero."""
    with pytest.raises(InvalidTrainingData, match=says):
        CSRLoss(model, config(**changes))(Batch(torch.from_numpy(embeddings[:4]), None, 0), None, 0.0)


def test_loss_does_not_depend_on_scale(config: Make, embeddings: np.ndarray) -> None:
    """Weights β and γ carry over between data sets only if the loss ignores the scale of the embeddings."""
    small = Training(config(normalize=False, epochs=1), embeddings).run_epoch()
    large = Training(config(normalize=False, epochs=1), embeddings * 1000).run_epoch()
    assert large.total == pytest.approx(small.total, rel=1e-3)


@pytest.mark.parametrize(
    ("progress", "levels"),
    [
        (0.0, (64, 64, 64, 64)),
        (0.07, (58, 58, 61, 64)),  # p = 0.1: 57.8, 58.4, 60.8
        (0.35, (33, 36, 48, 64)),
        (0.63, (8, 14, 35, 64)),
        (0.7, (2, 8, 32, 64)),
        (1.0, (2, 8, 32, 64)),
    ],
)
def test_annealed_levels(progress: float, levels: tuple[int, ...]) -> None:
    """CSRv2: k_t = (1 − p)·64 + p·k, rounded, over the first 70 % of the steps, then fixed."""
    assert annealed_levels((2, 8, 32, 64), 64, progress) == levels


def test_levels_above_the_start_are_not_annealed() -> None:
    """Annealing lets small levels begin wide; it must never make a level narrower than it is."""
    assert annealed_levels((4, 16, 64), 0, 0.0) == (4, 16, 64)
    assert annealed_levels((4, 16, 64), 16, 0.0) == (16, 16, 64)


def test_annealing_trains_the_wider_code(model: CSRAutoencoder, config: Make, embeddings: np.ndarray) -> None:
    """At the start every level is the annealed k, so the loss is that of one level; at the end it is their own."""
    batch = Batch(torch.from_numpy(embeddings[:20]), None, 0)
    annealed = CSRLoss(model, config(anneal_from=8))
    fixed = CSRLoss(model, config())
    codes_at_start = annealed(batch, None, 0.0)
    assert codes_at_start.latents.shape == (20, 8)
    assert codes_at_start.reconstruction < fixed(batch, None, 0.0).reconstruction
    torch.testing.assert_close(annealed(batch, None, 1.0).total, fixed(batch, None, 1.0).total)
