from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from csr_model import CSRConfig, fit
from csr_model.autoencoder import CSRAutoencoder
from csr_model.losses import Batch
from csr_model.losses.paper import (
    PaperLoss,
    published_autoencoder,
    published_auxiliary,
    published_contrastive,
    published_reconstruction,
)

Make = Callable[..., CSRConfig]


def paper(**changes: object) -> CSRConfig:
    """Return the published settings for three latents of two dimensions, k = 1, so that 4k is clamped to 3."""
    fields: dict[str, object] = {"hidden_dim": 3, "k_aux": 2, "normalize": False, "beta": 0.5, "gamma_self": 0.7}
    return CSRConfig.paper(2, 1, **(fields | changes))


def by_hand(config: CSRConfig) -> CSRAutoencoder:
    """Return W = [[1, 0], [0, 1], [1, 1]], b_pre = [0.5, 0], b_lat = [0, 0.1, −2]."""
    model = published_autoencoder(config)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model.pre_bias.copy_(torch.tensor([0.5, 0.0]))
        model.latent_bias.copy_(torch.tensor([0.0, 0.1, -2.0]))
    return model


def alone(embeddings: object) -> Batch:
    """Return a batch of rows of which nothing is known."""
    return Batch(torch.as_tensor(embeddings, dtype=torch.float32), None, 0)


def test_one_row_by_hand() -> None:
    """Equations 2 to 5 and 7: a mistake in any would make `paper` something that nobody published.

    x = [2, 1], x − b_pre = [1.5, 1], a = [1.5, 1.1, 0.5].
    k = 1: z = [1.5, 0, 0], x̂ = [2, 0], L(k) = (0 + 1)/2 = 0.5.
    4k = 3: x̂ = [1.5 + 0.5 + 0.5, 1.1 + 0.5] = [2.5, 1.6], L(4k) = (0.25 + 0.36)/2 = 0.305.
    Dead is latent 2: ê = 0.5·[1, 1] + b_pre = [1, 0.5], e = x − 1.5·[1, 0] = [0.5, 1], L_aux = (0.25 + 0.25)/2 = 0.25,
    not normalised as one row has no variance; its contrast is 0.
    """
    config = paper()
    losses = PaperLoss(by_hand(config), config)(alone([[2.0, 1.0]]), torch.tensor([False, False, True]))
    assert losses.reconstruction.item() == pytest.approx(0.5 + 0.305 / 8)
    assert losses.auxiliary.item() == pytest.approx(0.25)
    assert losses.contrastive.item() == 0
    assert losses.total.item() == pytest.approx(0.538125 + 0.5 * 0.25)
    assert losses.latents.tolist() == [[0, 1, 2]]


def test_relu_comes_after_top_k() -> None:
    """Equation 2 selects signed values; with a = [−0.5, −0.9, −3] nothing is active and x̂ is b_pre."""
    config = paper(beta=0.0, gamma_self=0.0)
    losses = PaperLoss(by_hand(config), config)(alone([[0.0, -1.0]]), None)
    assert losses.weights.tolist() == [[0.0, 0.0, 0.0]]
    assert losses.total.item() == pytest.approx((0.25 + 1) / 2 * (1 + 1 / 8))


def test_reconstruction_by_hand() -> None:
    """Equation 4 sums over d, the authors' code takes the mean: β and γ are tuned to the latter."""
    x, restored = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert published_reconstruction(x, restored).item() == pytest.approx((1 + 0 + 0 + 1) / 4)
    equation_4 = (x - restored).square().sum(1).mean()
    assert 2 * published_reconstruction(x, restored).item() == pytest.approx(equation_4.item())


def test_auxiliary_by_hand() -> None:
    """The target's variance in the batch is the unit: e = [1, 0], [3, 0] has mean [2, 0] and Σ(e − ē)² = 2."""
    missed = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
    predictions = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = published_auxiliary(predictions, missed)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 4) / 2)
    assert missed.grad is None
    assert predictions.grad is not None
    assert predictions.grad.tolist() == [[0.0, 0.0], [-2.0, 0.0]]


def test_auxiliary_without_dead_latents_moves_only_the_pre_bias() -> None:
    """As in the authors' code: the loss is then Σ(b_pre − e)² / Σ(e − ē)², and the latents learn nothing from it.

    a = [1.5, 1.1, 0.5] and [0.5, 3.1, 1.5], so e = [0.5, 1] and [1, −0.1], ē = [0.75, 0.45].
    """
    config, plain = paper(gamma_self=0.0), paper(gamma_self=0.0, beta=0.0)
    objective = PaperLoss(by_hand(config), config)
    losses = objective(alone([[2.0, 1.0], [1.0, 3.0]]), None)
    assert losses.auxiliary.item() == pytest.approx((0 + 1 + 0.25 + 0.01) / (2 * 0.0625 + 2 * 0.3025))
    with_auxiliary, without = gradients(objective), gradients(PaperLoss(by_hand(plain), plain))
    torch.testing.assert_close(with_auxiliary["weight"], without["weight"])
    assert not torch.allclose(with_auxiliary["pre_bias"], without["pre_bias"])


def gradients(objective: PaperLoss) -> dict[str, Tensor]:
    """Return the gradients of two rows by name, with nothing dead."""
    objective(alone([[2.0, 1.0], [1.0, 3.0]]), None).total.backward()
    named = objective.autoencoder.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def test_contrast_of_the_text_by_hand() -> None:
    """Equation 6: dot products without temperature; z = [1, 0], [1, 1] have s = [[1, 1], [1, 2]]."""
    z = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = (np.log(1 + np.exp(1 - 1)) + np.log(1 + np.exp(1 - 2))) / 2
    assert published_contrastive(z @ z.T).item() == pytest.approx(expected)


def test_contrast_of_the_code_by_hand() -> None:
    """The code's value for the same rows, cosine 1/√2: log(1 + 2·e^{(0.7071 − 1)/0.2}) = 0.3801 for each."""
    cosines = torch.tensor([[1.0, 2**-0.5], [2**-0.5, 1.0]])
    assert published_contrastive(cosines, 0.2, copies=2).item() == pytest.approx(0.3801, abs=1e-4)


def test_contrast_is_that_of_a_doubled_batch() -> None:
    """The authors' code concatenates two equal passes and contrasts 2n rows, each with its copy as the positive."""
    unit = torch.nn.functional.normalize(torch.rand(5, 4, generator=torch.Generator().manual_seed(0)), dim=1).double()
    doubled = torch.cat([unit, unit])
    logits = doubled @ doubled.T / 0.2
    copy = torch.arange(10).roll(5)
    others = torch.ones(10, 10, dtype=torch.bool)
    others[torch.arange(10), torch.arange(10)] = False
    expected = -(logits[torch.arange(10), copy] - logits.masked_fill(~others, -torch.inf).logsumexp(1)).mean()
    torch.testing.assert_close(published_contrastive(unit @ unit.T, 0.2, copies=2), expected)


def test_contrast_only_repels() -> None:
    """Its positive is the row itself, so every other row is pushed away: what our own losses must not inherit."""
    cosines = torch.tensor([[1.0, 0.2], [0.9, 1.0]], requires_grad=True)
    published_contrastive(cosines, 0.2, copies=2).backward()
    assert cosines.grad is not None
    assert (cosines.grad[[0, 1], [1, 0]] > 0).all()


def test_total_is_the_weighted_sum(embeddings: np.ndarray) -> None:
    """Equation 7, with many rows: β and γ must meet the parts they belong to, written out with dense codes."""
    config = CSRConfig.paper(16, 4, hidden_dim=48, k_aux=6, beta=0.3, gamma_self=0.7, dead_after_rows=1)
    model = published_autoencoder(config)
    x, dead = torch.from_numpy(embeddings[:30]), torch.arange(48) < 12
    with torch.no_grad():
        losses = PaperLoss(model, config)(alone(x), dead)
        rows = torch.nn.functional.normalize(x, dim=1)
        a = rows @ model.weight.T

        def code(values: Tensor, k: int) -> Tensor:
            return values.relu() * (values >= values.topk(k, dim=1).values[:, -1:])

        narrow, wide, revived = code(a, 4), code(a, 16), code(a.masked_fill(~dead, -torch.inf), 6)
        missed = rows - narrow @ model.weight
        reconstruction = missed.square().mean() + (rows - wide @ model.weight).square().mean() / 8
        spread = (missed - missed.mean(0)).square().mean()
        auxiliary = (revived @ model.weight - missed).square().mean() / spread
        unit = torch.nn.functional.normalize(narrow, dim=1)
        others = torch.exp((unit @ unit.T - 1) / 0.2).fill_diagonal_(0)
        contrastive = torch.log(1 + 2 * others.sum(1)).mean()
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.auxiliary, auxiliary)
    torch.testing.assert_close(losses.contrastive, contrastive)
    torch.testing.assert_close(losses.total, reconstruction + 0.3 * auxiliary + 0.7 * contrastive)


def test_the_4k_branch_reaches_live_latents(embeddings: np.ndarray) -> None:
    """In other code the mask of the auxiliary loss changes the pre-activations, so that 4k sees dead latents only."""
    config = CSRConfig.paper(16, 2, hidden_dim=48, beta=0.0, gamma_self=0.0)
    model = published_autoencoder(config)
    losses = PaperLoss(model, config)(alone(embeddings[:20]), torch.arange(48) < 24)
    losses.total.backward()
    live = losses.latents[:, 2:][losses.weights[:, 2:] > 0].unique()
    live = live[live >= 24]
    assert len(live) > 10
    assert model.latent_bias.grad is not None
    assert (model.latent_bias.grad[live] != 0).all()


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (1, {}),
        (8, {"constant": True}),
        (8, {"k_aux": 0}),
        (8, {"hidden_dim": 5, "k_aux": 2}),
        (8, {"k_aux": 30}),
    ],
    ids=["one row", "equal rows", "no k_aux", "4k above h", "fewer dead than k_aux"],
)
def test_corner_cases_stay_finite(embeddings: np.ndarray, rows: int, changes: dict[str, int]) -> None:
    """The authors' code divides by the variance of a batch: one row gave 3.4e38, and the run was lost."""
    x = embeddings[:1].repeat(rows, 0) if changes.pop("constant", False) else embeddings[:rows]
    config = CSRConfig.paper(16, 4, **({"hidden_dim": 48, "k_aux": 6} | changes))
    model = published_autoencoder(config)
    losses = PaperLoss(model, config)(alone(x), torch.arange(config.hidden_dim) < 3)
    losses.total.backward()
    assert losses.total.item() < 20
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_initial_weights_are_those_of_a_linear_layer() -> None:
    """Published runs start there: U(±1/√d) has rows of norm √(1/3); biases are 0 and nothing is centred."""
    model = published_autoencoder(CSRConfig.paper(64, 8))
    assert model.weight.abs().max().item() <= 1 / 8
    assert model.weight.norm(dim=1).mean().item() == pytest.approx(3**-0.5, abs=0.01)
    assert not model.pre_bias.any()
    assert not model.latent_bias.any()
    x = torch.randn(3, 64)
    torch.testing.assert_close(model.preprocess(x), torch.nn.functional.normalize(x, dim=1))
    again = published_autoencoder(CSRConfig.paper(64, 8))
    other = published_autoencoder(CSRConfig.paper(64, 8, seed=1))
    assert torch.equal(again.weight, model.weight)
    assert not torch.equal(other.weight, model.weight)


def test_training_in_paper_mode_learns(embeddings: np.ndarray) -> None:
    """`fit` with the published configuration must lower the published loss, at a constant rate and without gains."""
    config = CSRConfig.paper(16, 4, hidden_dim=48, k_aux=6, batch_size=64, learning_rate=1e-3, epochs=12)
    history = fit(embeddings, config=config).history
    assert history[-1].total < 0.9 * history[0].total
    assert {report.learning_rate for report in history} == {1e-3}
