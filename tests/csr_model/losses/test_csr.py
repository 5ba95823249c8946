from collections.abc import Callable

import numpy as np
import pytest
import torch

from csr_model import CSRConfig, InvalidTrainingData, Training
from csr_model.autoencoder import CSRAutoencoder
from csr_model.codes import Codes
from csr_model.losses import CSRLoss, contrastive_loss

Make = Callable[..., CSRConfig]


def test_total_is_the_published_sum(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, labels: np.ndarray
) -> None:
    """L = mean_k[L(k) + L(4k)/8] + β·L_aux + γ·L_cl, written out with dense codes."""
    settings = config(gamma=0.7, beta=0.3)
    x, y = torch.from_numpy(embeddings[:40]), torch.from_numpy(labels[:40])
    dead = torch.zeros(48, dtype=torch.bool)
    dead[:10] = True
    with torch.no_grad():
        losses = CSRLoss(model, settings)(x, dead, y)
        preprocessed = model.preprocess(x)
        a = model.pre_activations(preprocessed)

        def code(values: torch.Tensor, k: int) -> torch.Tensor:
            return values.relu() * (values >= values.topk(k, dim=1).values[:, -1:])

        def missed(k: int) -> torch.Tensor:
            gain = model.log_gain[model.decode_ks.index(k)].exp()
            return preprocessed - (gain * code(a, k) @ model.weight + model.pre_bias)

        reconstruction = sum(
            missed(k).square().sum(1).mean() + missed(4 * k).square().sum(1).mean() / 8 for k in (2, 4, 8)
        )
        aux = code(a.masked_fill(~dead, -torch.inf), 6) @ model.weight
        auxiliary = (missed(8) - aux).square().sum() / missed(8).square().sum()
        order = a.relu().sort(dim=1, descending=True)
        contrastive = sum(
            contrastive_loss(Codes(order.indices[:, :k], order.values[:, :k]), y, 48, settings.temperature)
            for k in (2, 4, 8)
        )
    torch.testing.assert_close(losses.reconstruction, reconstruction / 3)
    torch.testing.assert_close(losses.auxiliary, auxiliary)
    torch.testing.assert_close(losses.contrastive, contrastive / 3)
    torch.testing.assert_close(losses.total, reconstruction / 3 + 0.3 * auxiliary + 0.7 * contrastive / 3)


@pytest.mark.parametrize("dead_latents", [0, 5])
def test_the_4k_branch_reaches_live_latents(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, dead_latents: int
) -> None:
    """Elsewhere an in-place mask left this branch only dead latents, so it trained nothing; here live ones learn."""
    objective = CSRLoss(model, config(beta=0.0))
    objective.loss_weights.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]))  # of 2, 4, 8, 16, 32: only 4·8
    x = torch.from_numpy(embeddings[:20])
    objective(x, torch.arange(48) < dead_latents, None).total.backward()
    codes = model.encode(x, 32)
    beyond_k = codes.latents[:, 8:][codes.weights[:, 8:] > 0].unique()
    live = beyond_k[beyond_k >= dead_latents]
    assert len(live) > 20
    assert model.latent_bias.grad is not None
    assert (model.latent_bias.grad[live] != 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_every_parameter_gets_a_gradient(
    model: CSRAutoencoder, config: Make, embeddings: np.ndarray, labels: np.ndarray, gamma: float
) -> None:
    """DistributedDataParallel would hang on a parameter that takes no part in the loss."""
    x, y = torch.from_numpy(embeddings[:20]), torch.from_numpy(labels[:20])
    CSRLoss(model, config(gamma=gamma))(x, None, y).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_missing_labels_are_an_error(model: CSRAutoencoder, config: Make, embeddings: np.ndarray) -> None:
    """A contrastive weight without labels must not become a silent zero."""
    with pytest.raises(InvalidTrainingData, match=r"gamma is 0\.5 but there are no labels"):
        CSRLoss(model, config(gamma=0.5))(torch.from_numpy(embeddings[:4]), None, None)


def test_loss_does_not_depend_on_scale(config: Make, embeddings: np.ndarray) -> None:
    """Weights β and γ carry over between data sets only if the loss ignores the scale of the embeddings."""
    small = Training(config(normalize=False, epochs=1), embeddings).run_epoch()
    large = Training(config(normalize=False, epochs=1), embeddings * 1000).run_epoch()
    assert large.total == pytest.approx(small.total, rel=1e-3)
