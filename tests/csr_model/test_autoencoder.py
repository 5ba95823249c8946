from contextlib import ExitStack

import numpy as np
import pytest
import torch

from csr_model.autoencoder import CSRAutoencoder, _full_precision
from csr_model.codes import Codes


def dense(codes: Codes[torch.Tensor], hidden_dim: int, k: int) -> torch.Tensor:
    """Return the first k latents as rows [n, h]."""
    z = torch.zeros(len(codes.latents), hidden_dim)
    return z.scatter_add(1, codes.latents[:, :k], codes.weights[:, :k])


def test_equations(model: CSRAutoencoder, embeddings: np.ndarray) -> None:
    """Encoder and decoder must be the documented equations, or exported weights mean something else."""
    x = torch.from_numpy(embeddings[:9])
    preprocessed = (x / x.norm(dim=1, keepdim=True) - model.mean) * model.scale
    a = (preprocessed - model.pre_bias) @ model.weight.T + model.latent_bias
    torch.testing.assert_close(model.preprocess(x), preprocessed)
    torch.testing.assert_close(model.pre_activations(preprocessed), a)
    codes = model.encode(x, model.decode_ks[-1])
    kept = a.relu() * (a >= a.topk(model.decode_ks[-1], dim=1).values[:, -1:])
    torch.testing.assert_close(dense(codes, model.hidden_dim, model.decode_ks[-1]), kept)
    for column, k in enumerate(model.decode_ks):
        z = dense(codes, model.hidden_dim, k)
        expected = model.log_gain[column].exp() * z @ model.weight + model.pre_bias
        torch.testing.assert_close(model.reconstruct(codes, model.decode_ks)[column], expected)
    torch.testing.assert_close(model.decode(codes), dense(codes, model.hidden_dim, 48) @ model.weight)


def test_sparse_decode_has_the_gradients_of_the_dense_one(model: CSRAutoencoder, embeddings: np.ndarray) -> None:
    """Decoding gathers only active rows for speed; training must not notice."""
    model = model.double()
    x = torch.from_numpy(embeddings[:9]).double()
    target = torch.randn(9, len(model.decode_ks), 16, dtype=torch.float64)

    codes = model.encode(x, model.decode_ks[-1])
    (torch.stack(model.reconstruct(codes, model.decode_ks), dim=1) * target).sum().backward()
    sparse = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    codes = model.encode(x, model.decode_ks[-1])
    for column, k in enumerate(model.decode_ks):
        z = torch.zeros(9, model.hidden_dim, dtype=torch.float64)
        z = z.scatter_add(1, codes.latents[:, :k], codes.weights[:, :k])
        reconstruction = model.log_gain[column].exp() * z @ model.weight + model.pre_bias
        (reconstruction * target[:, column]).sum().backward(retain_graph=True)
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(sparse) == len(plain) == 4
    for ours, theirs in zip(sparse, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_latents_start_as_training_rows(model: CSRAutoencoder, embeddings: np.ndarray) -> None:
    """Latents drawn at random would mostly never fire; starting as rows, nearly all do."""
    atoms = torch.nn.functional.normalize(model.weight, dim=1)
    rows = torch.nn.functional.normalize(model.preprocess(torch.from_numpy(embeddings)), dim=1)
    assert (atoms @ rows.T).max(dim=1).values.min() > 0.8
    torch.testing.assert_close(model.weight.norm(dim=1), torch.full((48,), 0.5))


def test_encoding_ignores_autocast(model: CSRAutoencoder, embeddings: np.ndarray) -> None:
    """A caller's mixed precision must not change which latents win."""
    x = torch.from_numpy(embeddings[:32])
    plain = model.encode(x, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.encode(x, 8)
    assert torch.equal(plain.latents, mixed.latents)
    assert torch.equal(plain.weights, mixed.weights)


def test_frozen_weights_encode_alike(model: CSRAutoencoder, embeddings: np.ndarray) -> None:
    """A served adapter would choose other latents than its training did, or be saved as another file."""
    x = torch.from_numpy(embeddings[:32])
    with torch.no_grad():
        model.pre_bias.normal_(0, 0.3)
        model.latent_bias.normal_(0, 0.3)
    trained, saved = model.encode(x, 8), dict(model.state_dict())
    frozen = model.freeze()
    assert torch.equal(frozen.encode(x, 8).latents, trained.latents)
    assert torch.equal(frozen.encode(x, 8).weights, trained.weights)
    assert frozen.state_dict().keys() == saved.keys()
    assert not any(weight.requires_grad for weight in frozen.parameters())


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_off_until_the_last_thread_is_done(allowed: bool) -> None:
    """Two threads that encode at once would leave one of them, or the whole process, with other codes than before."""
    flags = torch.backends.cuda.matmul
    before, flags.allow_tf32 = flags.allow_tf32, allowed
    first, second = ExitStack(), ExitStack()
    try:
        first.enter_context(_full_precision("cuda"))
        second.enter_context(_full_precision("cuda"))
        first.close()
        assert not flags.allow_tf32
        second.close()
        assert flags.allow_tf32 == allowed
    finally:
        flags.allow_tf32 = before


def test_no_rows_decode_to_no_rows(model: CSRAutoencoder) -> None:
    """An empty shard is not an error, in either direction."""
    codes = model.encode(torch.empty(0, 16), 8)
    assert model.decode(codes).shape == (0, 16)
    assert [restored.shape for restored in model.reconstruct(codes, (2, 4, 8))] == [(0, 16)] * 3
